"""Files that are not DICOM: what they are, as far as their first bytes tell."""

NOT_DICOM = "it is not a DICOM file"
HINT = ": it is a"  # begins what is known of the file
ARCHIVES = {  # first bytes -> name
    b"PK\3\4": "zip", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz",
    b"7z\xbc\xaf": "7z", b"Rar!": "rar", b"(\xb5/\xfd": "zstd",
}  # fmt: skip
VOLUMES = {
    b"\x5c\1\0\0": "NIfTI or Analyze", b"\0\0\1\x5c": "NIfTI or Analyze",
    b"\x1c\2\0\0": "NIfTI", b"\0\0\2\x1c": "NIfTI", b"NRRD": "NRRD", b"\x89HDF": "HDF5",
    b"CDF": "MINC",
}  # fmt: skip
PICTURES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"%PDF": "PDF", b"BM": "BMP"}


def format_hint(head: bytes) -> str:
    """Return what a file that begins with `head` is, and what to do; "" if it is unknown.

    head: 265 bytes or more, if the file has so many
    """
    if head[257:262] == b"ustar":
        return f"{HINT} tar archive: unpack it first"
    for formats, remedy in (
        (ARCHIVES, "archive: unpack it first"),
        (VOLUMES, "volume: use the DICOM files that it was made from"),
        (PICTURES, "file: use the DICOM files that it was made from"),
    ):
        for start, name in formats.items():
            if head.startswith(start):
                return f"{HINT} {name} {remedy}"
    return ""
