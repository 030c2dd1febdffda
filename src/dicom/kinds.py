"""What an image is by its ImageType: a slice, a map, a projection, a localizer, a mosaic.

A volume is made of slices. The other kinds are left out where there are slices.
"""

import re
from collections import Counter
from functools import lru_cache

from src.dicom.errors import require
from src.dicom.fields import vector
from src.dicom.header import Slice

WORDS = {  # kind -> words of ImageType, best kind first; "" is a slice
    "": (),
    "derived": (
        "ADC", "EADC", "FA", "COLFA", "COLMAP", "TENSOR", "MAP", "TTP", "CBF", "CBV", "MTT", "TMAX",
        "PBP", "RCBF", "RCBV", "RMTT", "RELCBF", "RELCBV", "RELMTT", "CORRECTEDCBV", "KTRANS", "VE",
        "KEP", "VP", "IAUC", "SUB", "SUBTRACTION", "SUBTRACTED", "SUBTRACT", "QUANTITY", "RATIO",
        "ANISO", "TSTAT", "T2MAP", "T1MAP", "T2STARMAP", "B1MAP", "FIELDMAP", "STD", "PERMEABILITY",
        "PENUMBRA", "TEMPERATURE", "DIVISION",
    ),
    "projection": (
        "PROJECTION", "MIP", "MINIP", "MNIP", "MAXIP", "IP", "COLLAPSE", "COLLAPSED", "VRT",
        "SSD", "RENDERING", "CPR", "CURVED", "MAXIMUM", "MINIMUM",
    ),
    "screenshot": ("SCREEN", "SCREENSAVE", "SCREENSHOT", "PROT", "DOSE"),
    "localizer": ("LOCALIZER", "SCOUT", "SURVIEW", "TOPOGRAM", "SCANOGRAM", "SCANO"),
    "mosaic": ("MOSAIC",),
}  # fmt: skip
COMPONENTS = {  # of a complex MR signal, the first word of a value -> name
    "M": "magnitude", "MAGNITUDE": "magnitude", "P": "phase", "PHASE": "phase",
    "VELOCITY": "phase", "R": "real", "REAL": "real", "I": "imaginary", "IMAGINARY": "imaginary",
}  # fmt: skip
NAMES = {
    "": "slices that belong to no map",
    "derived": "maps computed from others (such as ADC, perfusion, subtraction)",
    "projection": "projections (MIP)",
    "screenshot": "pictures of a screen (such as dose reports)",
    "localizer": "localizers (scouts, surviews)",
    "mosaic": "Siemens mosaics (all slices in one image: dcm2niix unpacks them)",
}
FEWEST = 0.1  # slices are not the volume if there are fewer, as a fraction of the maps
DOUBTFUL = ("projection", "screenshot", "localizer")
STACK = 10  # as many parallel images of a doubtful kind are a volume


def kind_of(slice_: Slice) -> str:
    """Return the kind of an image, a key of WORDS."""
    tiles = vector(slice_.tags, "SiemensMosaic", 1)
    return "mosaic" if tiles and tiles[0] > 1 else _kind(_image_type(slice_))


def is_derived(slice_: Slice) -> bool:
    """Return whether an image was computed from others: a reformat, for example."""
    return _image_type(slice_).startswith("DERIVED")


def component_of(slice_: Slice) -> str:
    """Return what a slice shows of a complex signal, a name in COMPONENTS; "" if it is not said."""
    component = slice_.tags.get("ComplexImageComponent", "").upper()
    return COMPONENTS.get(component) or _component(_image_type(slice_))


def _image_type(slice_: Slice) -> str:
    """Return the values of ImageType, those of a frame first."""
    names = ("FrameType", "ImageType")
    return "\\".join(slice_.tags[name] for name in names if name in slice_.tags).upper()


@lru_cache(maxsize=256)
def _kind(image_type: str) -> str:
    found = set(re.split(r"[^A-Z0-9]+", image_type))
    for kind in reversed(WORDS):
        if found.intersection(WORDS[kind]):
            return kind
    return ""


@lru_cache(maxsize=256)
def _component(image_type: str) -> str:
    for value in image_type.split("\\"):
        word = re.split(r"[^A-Z]+", value.strip())[0]
        if word in COMPONENTS:
            return COMPONENTS[word]
    return ""


def true_slices(slices: list[Slice]) -> tuple[list[Slice], list[tuple[Slice, str]], list[str]]:
    """Return the images that can be a volume, the others with a reason, and warnings.

    Raise DicomError if none can.
    """
    kinds = [kind_of(slice_) for slice_ in slices]
    counts = Counter(kinds)
    if len(counts) == 1 and "" in counts:
        return slices, [], []
    best = next(kind for kind in WORDS if counts[kind])
    if best == "" and counts["derived"] * FEWEST > counts[""]:
        best = "derived"
    require(best != "mosaic", best, f"all images are {NAMES['mosaic']}")
    kept, left_out = [], []
    for slice_, kind in zip(slices, kinds, strict=True):
        if kind == best:
            kept.append(slice_)
        else:
            left_out.append((slice_, kind or "other_reconstruction"))
    warnings = [f"all slices are {NAMES[best]}"] if best else []
    for kind, count in counts.items():
        if kind != best:
            images = "image is" if count == 1 else "images are"
            warnings.append(f"{count} {images} left out: {NAMES[kind]}")
    return kept, left_out, warnings
