"""Multi-frame files that hold several acquisitions: their functional groups tell them apart."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage

from src.dicom import open_series, read_series
from tests.dicom_files import dataset, save, volume

COUNT = 7  # positions


def item(**tags) -> Dataset:
    found = Dataset()
    for name, value in tags.items():
        setattr(found, name, value)
    return found


def write(path: Path, groups: Callable[[int, int], dict], acquisitions: int = 3, **tags) -> Path:
    """Write all frames of some acquisitions into one file, in random order.

    groups: (acquisition, position) -> {name of a functional group: its tags}
    """
    images = np.concatenate([volume((COUNT, 6, 8), seed=a) for a in range(acquisitions)])
    order = list(range(len(images)))
    random.Random(1).shuffle(order)
    frames = []
    for number in order:
        acquisition, k = divmod(number, COUNT)
        macros = {"PlanePositionSequence": {"ImagePositionPatient": [0, 0, 2.5 * k]}}
        frame = Dataset()
        for name, content in (macros | groups(acquisition, k)).items():
            setattr(frame, name, [item(**content)])
        frames.append(frame)
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=2.5)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )
    header = {
        "SOPClassUID": EnhancedMRImageStorage,
        "NumberOfFrames": len(images),
        "PixelSpacing": None,
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": frames,
    }
    return save(dataset(images[order], **header | tags), path)


def content(**tags) -> dict:
    return {"FrameContentSequence": tags}


def diffusion(b: float, x: float) -> dict:
    gradient = item(DiffusionGradientOrientation=[x, 0.0, 1.0])
    return {
        "MRDiffusionSequence": {
            "DiffusionBValue": b,
            "DiffusionGradientDirectionSequence": [gradient],
        }
    }


GROUPS = {
    "temporal index": (
        lambda a, k: content(TemporalPositionIndex=a + 1, StackID="1"),
        "3 time points by temporal position",
    ),
    "stack": (lambda a, k: content(StackID=str(a)), "3 stacks"),
    "acquisition number": (
        lambda a, k: content(FrameAcquisitionNumber=a + 1),
        "3 acquisitions by acquisition number",
    ),
    "acquisition time": (
        lambda a, k: content(FrameAcquisitionDateTime=f"202001011{a}0000.{k}"),
        "3 time points by acquisition time",
    ),
    "echo time": (
        lambda a, k: {"MREchoSequence": {"EffectiveEchoTime": 5.0 + 10 * a}},
        "3 echo times: 5 ms is taken",
    ),
    "b-value": (lambda a, k: diffusion(1000.0 * a, 0), "3 b-values: 0 s/mm2 is taken"),
    "inversion time": (
        lambda a, k: {"MRModifierSequence": {"InversionTimes": 100.0 + 400 * a}},
        "3 inversion times",
    ),
    "component": (
        lambda a, k: {
            "MRImageFrameTypeSequence": {
                "FrameType": ["ORIGINAL", "PRIMARY", "T1", "NONE"],
                "ComplexImageComponent": ("MAGNITUDE", "PHASE", "REAL")[a],
            }
        },
        "3 image types: the magnitude is taken",
    ),
    "heart": (
        lambda a, k: {
            "CardiacSynchronizationSequence": {"NominalCardiacTriggerDelayTime": 40.0 * a}
        },
        "3 cardiac phases",
    ),
    "tube voltage": (
        lambda a, k: {"CTXRayDetailsSequence": {"KVP": 80 + 30 * a}},
        "3 tube voltages: 80 kV is taken",
    ),
    "kernel": (
        lambda a, k: (
            {"CTReconstructionSequence": {"ConvolutionKernel": "ABC"[a]}}
            | content(FrameAcquisitionDateTime=f"202001011{a}0000")
        ),
        "3 reconstruction kernels",
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_what_tells_frames_apart(name, tmp_path):
    groups, words = GROUPS[name]
    write(tmp_path / "one", groups)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, volume((COUNT, 6, 8), seed=0))
    assert words in series.warnings[0] and "14 slices left out" in series.warnings[0]
    assert all(name.startswith("one frame") and reason for name, reason in series.dropped)


def test_directions(tmp_path):
    write(tmp_path / "one", lambda a, k: diffusion(1000.0, 0.1 * a))
    series = read_series(tmp_path)
    seeds = [np.array_equal(series.pixels, volume((COUNT, 6, 8), seed=a)) for a in range(3)]
    assert sum(seeds) == 1 and "3 diffusion directions" in series.warnings[0]


@pytest.mark.parametrize("position_tag", [0x00209057, 0x00200032], ids=["in stack", "position"])
@pytest.mark.parametrize("first", [True, False])
def test_dimension_indices(first, position_tag, tmp_path):
    """The index of the position is left out, wherever it stands."""
    pointers = [0x00209128, position_tag] if first else [position_tag, 0x00209128]

    def groups(a: int, k: int) -> dict:
        return content(DimensionIndexValues=[a + 1, k + 1] if first else [k + 1, a + 1])

    sequence = [item(DimensionIndexPointer=pointer) for pointer in pointers]
    write(tmp_path / "one", groups, DimensionIndexSequence=sequence)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, volume((COUNT, 6, 8), seed=0))
    assert "3 groups of frames by dimension index" in series.warnings[0]


@pytest.mark.parametrize("values", [[1], [1, 2, 3]])
def test_dimension_indices_that_fit_no_pointer_do_not_matter(values, tmp_path):
    sequence = [item(DimensionIndexPointer=0x00209128), item(DimensionIndexPointer=0x00209057)]
    write(
        tmp_path / "one",
        lambda a, k: content(DimensionIndexValues=values, TemporalPositionIndex=a + 1),
        DimensionIndexSequence=sequence,
    )
    assert np.array_equal(read_series(tmp_path).pixels, volume((COUNT, 6, 8), seed=0))


def test_a_projection_among_frames(tmp_path):
    """A frame that is a projection is at a position of a slice."""

    def groups(a: int, k: int) -> dict:
        kind = ["DERIVED", "PRIMARY", "ANGIO", "MAX_IP"] if a else ["ORIGINAL", "PRIMARY", "ANGIO"]
        return {"MRImageFrameTypeSequence": {"FrameType": kind}}

    write(tmp_path / "one", groups, acquisitions=2, ImageType=["MIXED", "PRIMARY", "ANGIO"])
    series = open_series(tmp_path)
    assert np.array_equal(read_series(tmp_path).pixels, volume((COUNT, 6, 8), seed=0))
    assert {reason for _, reason in series.dropped} == {"projection"}
