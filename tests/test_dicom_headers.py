"""Header forms that other readers accept, and false headers; what a reason may quote."""

import gzip
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from src.dicom import DicomError, open_all, open_series, read_series
from tests.dicom_files import dataset, raw_text, reason, save, volume, write_axial

NAME = "Doe^Jane"


def data_start(whole: bytes) -> int:
    """Return where the data set begins, behind the meta information."""
    return 144 + struct.unpack("<I", whole[140:144])[0]


def rewrite(folder: Path, change) -> None:
    """Change the bytes of all files. change: (meta information, data set) -> bytes"""
    for path in folder.iterdir():
        whole = path.read_bytes()
        start = data_start(whole)
        path.write_bytes(change(whole[:start], whole[start:]))


COMMANDS = {
    "implicit": struct.pack("<HHII", 0, 0, 4, 12) + struct.pack("<HHIH", 0, 0x0100, 2, 1),
    "explicit": b"\0\0\0\0UL\4\0\x0c\0\0\0" + b"\0\0\0\1US\2\0\1\0",
    "group 4": b"\4\0\0\x12UL\4\0\0\0\0\0" + b"\4\0\x30\x14CS\6\0IMAGE ",
    "both": b"\0\0\0\0UL\4\0\x0c\0\0\0" + b"\4\0\x30\x14CS\6\0IMAGE ",
}


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_commands_before_the_data_set(kind, syntax, tmp_path):
    write_axial(tmp_path, volume())
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = syntax
        save(data, path)
    rewrite(tmp_path, lambda meta, data: meta + COMMANDS[kind] + data)
    assert np.array_equal(read_series(tmp_path).pixels, volume())


@pytest.mark.parametrize("preamble", [True, False])
def test_commands_without_a_preamble(preamble, tmp_path):
    write_axial(tmp_path, volume())
    start = bytes(128) + b"DICM" if preamble else b""
    rewrite(tmp_path, lambda meta, data: start + COMMANDS["explicit"] + data)
    assert np.array_equal(read_series(tmp_path).pixels, volume())


@pytest.mark.parametrize("keep", ["meta only", "no meta", "meta without syntax"])
def test_parts_of_the_meta_information(keep, tmp_path):
    write_axial(tmp_path, volume())

    def change(meta: bytes, data: bytes) -> bytes:
        if keep == "meta without syntax":
            element = b"\2\0\x10\0UI"
            at = meta.index(element)
            length = 8 + struct.unpack("<H", meta[at + 6 : at + 8])[0]
            meta = meta[:at] + meta[at + length :]
            group_length = struct.unpack("<I", meta[140:144])[0] - length
            return meta[:140] + struct.pack("<I", group_length) + meta[144:] + data
        return (meta[132:] if keep == "meta only" else b"") + data

    rewrite(tmp_path, change)
    assert np.array_equal(read_series(tmp_path).pixels, volume())


@pytest.mark.parametrize(
    ("written", "claimed"),
    [
        (ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
    ],
)
def test_a_data_set_of_another_form_than_its_syntax_says(written, claimed, tmp_path):
    write_axial(tmp_path, volume())
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = written
        save(data, path)
        whole = path.read_bytes()
        data_set = whole[data_start(whole) :]
        data.file_meta.TransferSyntaxUID = claimed
        save(data, path)
        whole = path.read_bytes()
        path.write_bytes(whole[: data_start(whole)] + data_set)
        assert data_set[4:6].isalpha() == (written == ExplicitVRLittleEndian)
        expected = pydicom.dcmread(path)
        assert expected.file_meta.TransferSyntaxUID == claimed
        assert np.array_equal(expected.pixel_array, read_series(path).pixels[0])
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, volume()) and not series.dropped


@pytest.mark.parametrize(
    "tags",
    [
        {"NumberOfFrames": 0},
        {"PhotometricInterpretation": "monochrome2"},
        {"Modality": "mr"},
        {"BitsStored": 16, "HighBit": 11},
        {"BitsStored": 12, "HighBit": 7},
    ],
    ids=["no frames", "small letters", "mr", "high bit below 16 bits", "high bit below 12 bits"],
)
def test_numbers_that_other_readers_forgive(tags, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    write_axial(tmp_path, volume(), **tags)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, volume())
    if "HighBit" not in tags:
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "002.dcm")))
        assert np.array_equal(series.pixels[2:3], expected)


def test_slice_location_gives_the_order_where_positions_are_missing(tmp_path):
    images = volume()
    for k, image in enumerate(images):
        uid = f"1.2.{(k * 5) % 7 + 1}"
        save(dataset(image, SliceLocation=-3.5 * k, SOPInstanceUID=uid), tmp_path / f"{k}")
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, images[::-1])
    assert series.warnings[0] == "no positions: ordered by SliceLocation"


def test_a_position_that_ends_with_a_separator(tmp_path):
    write_axial(tmp_path, volume(), InstanceNumber=1)
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        text = "\\".join(map(str, data.ImagePositionPatient))
        raw_text(data, "ImagePositionPatient", f"{text}\\ ")
        save(data, path)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, volume()) and not series.warnings


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "PixelSpacing", "RescaleSlope"])
def test_decimal_commas(keyword, tmp_path):
    write_axial(tmp_path, volume(), RescaleSlope="2.5", RescaleIntercept=0)
    expected = read_series(tmp_path)
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        values = data[keyword].value
        numbers = [values] if keyword == "RescaleSlope" else values
        raw_text(
            data, keyword, "\\".join(str(float(number)) for number in numbers).replace(".", ",")
        )
        save(data, path)
        assert "," in str(pydicom.dcmread(path).get_item(keyword).value)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, expected.pixels)
    assert np.array_equal(series.positions, expected.positions)
    assert series.spacing == expected.spacing


def test_spectroscopy_has_no_pixels(tmp_path):
    spectroscopy = "1.2.840.10008.5.1.4.1.1.4.2"
    save(dataset(volume()[0], SOPClassUID=spectroscopy, PixelData=None), tmp_path / "a")
    assert reason(tmp_path) == "no_pixels"
    save(dataset(volume()[0], PixelData=None), tmp_path / "a")
    assert reason(tmp_path) == "truncated"


def test_a_patient_that_is_missing_in_every_other_file(tmp_path):
    write_axial(tmp_path, volume())
    for k in range(0, 7, 2):
        data = pydicom.dcmread(tmp_path / f"{k:03d}.dcm")
        data.PatientID = ""
        save(data, tmp_path / f"{k:03d}.dcm")
    found, _ = open_all(tmp_path)
    assert [len(series.slices) for _, series in found] == [7] and found[0][1].patient_id == "p1"
    data = pydicom.dcmread(tmp_path / "001.dcm")
    data.PatientID = "p2"
    save(data, tmp_path / "001.dcm")
    found, _ = open_all(tmp_path)
    assert sorted(series.patient_id for _, series in found) == ["", "p1", "p2"]


@pytest.mark.parametrize("kind", ["zip", "gzip", "tar", "NIfTI", "NIfTI in gzip", "JPEG"])
def test_files_of_other_kinds_get_a_hint(kind, tmp_path):
    write_axial(tmp_path / "files", volume())
    inside, packed = tmp_path / "files" / "000.dcm", tmp_path / "series" / "packed"
    packed.parent.mkdir()
    nifti = struct.pack("<I", 348).ljust(344, b"\0") + b"n+1\0" + bytes(400)
    if kind == "zip":
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(inside, "000.dcm")
    elif kind == "tar":
        with tarfile.open(packed, "w") as archive:
            archive.add(inside, "000.dcm")
    else:
        contents = {
            "gzip": gzip.compress(inside.read_bytes()),
            "NIfTI": nifti,
            "NIfTI in gzip": gzip.compress(nifti),
            "JPEG": b"\xff\xd8\xff\xe0" + bytes(300),
        }
        packed.write_bytes(contents[kind])
    (tmp_path / "series" / "zz.txt").write_text("a note")
    with pytest.raises(DicomError) as caught:
        open_series(tmp_path / "series")
    assert caught.value.reason == "not_dicom"
    remedy = "unpack it first" if kind not in ("NIfTI", "JPEG") else "use the DICOM files"
    assert kind.split()[-1] in str(caught.value) and remedy in str(caught.value)


@pytest.mark.parametrize("value", ["1e39", "-2e5", "inf", "1e308"])
def test_a_slice_beyond_any_patient_is_left_out(value, tmp_path):
    write_axial(tmp_path, volume())
    data = pydicom.dcmread(tmp_path / "003.dcm")
    raw_text(data, "ImagePositionPatient", f"0\\0\\{value}")
    save(data, tmp_path / "003.dcm")
    series = read_series(tmp_path)
    assert series.dropped == [("003.dcm", "no_position")]
    assert np.array_equal(series.pixels, np.delete(volume(), 3, axis=0))
    assert np.isfinite(series.positions).all() and series.spacing[0] == 2.5


@pytest.mark.parametrize("value", ["1e-20", "1e5", "0", "nan", "-1"])
def test_spacings_that_cannot_be_true_are_missing(value, tmp_path):
    write_axial(tmp_path, volume())
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        raw_text(data, "PixelSpacing", f"{value}\\{value}")
        raw_text(data, "SliceThickness", value)
        save(data, path)
    series = open_series(tmp_path)
    assert series.spacing == (2.5, None, None) and "no pixel spacing" in series.warnings
    single = open_series(tmp_path / "003.dcm")
    assert single.spacing == (None, None, None)
    assert "no distance between slices" in single.warnings


QUOTED = {
    "Modality": "other_modality",
    "PhotometricInterpretation": "colour",
    "RescaleSlope": "bad_rescale",
    "RescaleIntercept": "bad_rescale",
    "NumberOfFrames": "bad_header",
}


@pytest.mark.parametrize("keyword", QUOTED)
def test_no_reason_quotes_a_name(keyword, tmp_path):
    data = dataset(volume()[0])
    raw_text(data, keyword, NAME)
    save(data, tmp_path / "a.dcm")
    with pytest.raises(DicomError) as caught:
        read_series(tmp_path)
    assert caught.value.reason == QUOTED[keyword] and "Doe" not in str(caught.value)


def test_no_reason_quotes_a_name_in_place_of_a_syntax(tmp_path):
    whole = save(dataset(volume()[0]), tmp_path / "a.dcm").read_bytes()
    syntax = b"1.2.840.10008.1.2.1\0"
    assert whole.count(syntax) == 1
    (tmp_path / "a.dcm").write_bytes(whole.replace(syntax, NAME.encode().ljust(20)))
    with pytest.raises(DicomError) as caught:
        read_series(tmp_path)
    assert caught.value.reason == "bad_header" and "Doe" not in str(caught.value)


def test_known_words_are_quoted(tmp_path):
    save(dataset(volume()[0], modality="PT"), tmp_path / "a")
    with pytest.raises(DicomError, match="modality PT is neither CT nor MR"):
        open_series(tmp_path)
    save(dataset(volume()[0], PhotometricInterpretation="PALETTE COLOR"), tmp_path / "a")
    with pytest.raises(DicomError, match="PALETTE COLOR is not a grey image"):
        open_series(tmp_path)
