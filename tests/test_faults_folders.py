"""Faults of folders and of single files among whole ones: the volume, or a named reason."""

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest

from src.artifacts.paths import ArtifactError, DataFolder
from src.dicom import DicomError, open_series, read_series
from tests.compressed_files import JPEG_LS, compressed
from tests.dicom_files import dataset, reason, save, volume, write_axial


def test_missing_empty_and_hidden(tmp_path):
    assert reason(tmp_path / "nowhere") == "missing"
    assert reason(tmp_path) == "no_dicom"
    save(dataset(volume()[0]), tmp_path / ".hidden")
    save(dataset(volume()[0]), tmp_path / "__MACOSX" / "copy")
    assert reason(tmp_path) == "no_dicom"


def test_a_file_without_bytes_is_left_out(tmp_path):
    (tmp_path / "empty.dcm").touch()
    assert reason(tmp_path) == "empty"
    write_axial(tmp_path, volume())
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, volume()) and series.dropped == [("empty.dcm", "empty")]


def test_links(tmp_path):
    outside = write_axial(tmp_path / "outside", volume())
    folder = tmp_path / "series"
    (folder / "deeper").mkdir(parents=True)
    for path in outside.iterdir():
        (folder / "deeper" / path.name).symlink_to(path)
    (folder / "deeper" / "circle").symlink_to(folder)
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    (folder / "gone").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe")
    series = read_series(folder)
    assert np.array_equal(series.pixels, volume())
    assert sorted(series.dropped) == [
        ("a", "unreadable"),
        ("b", "unreadable"),
        ("gone", "unreadable"),
        ("pipe", "not_dicom"),
    ]


def test_odd_names(tmp_path):
    names = ["a b.dcm", "ünï.DCM", "I10", "x.IMA", "i003.MRDC.1", "no suffix", "1.2.840"]
    write_axial(tmp_path / "with spaces ü", volume(), names=names)
    assert np.array_equal(read_series(tmp_path / "with spaces ü").pixels, volume())
    for uid in ("../../etc", "1.2/3", "", ".", "1" * 65, "1.2\n"):
        with pytest.raises(ArtifactError):
            DataFolder(tmp_path).series(uid)


def test_a_folder_that_may_not_be_entered_is_said(tmp_path, monkeypatch):
    write_axial(tmp_path / "study", volume((3, 12, 10)))
    (tmp_path / "study" / "locked").mkdir()
    real = os.scandir

    def scandir(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert open_series(tmp_path / "study").dropped == [("locked", "unreadable")]
    with pytest.raises(DicomError) as error:
        open_series(tmp_path / "study" / "locked")
    assert error.value.reason == "unreadable"


def test_a_damaged_slice_costs_only_itself(tmp_path):
    write_axial(tmp_path, volume())
    path = tmp_path / "003.dcm"
    path.write_bytes(path.read_bytes()[:-7])
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, np.delete(volume(), 3, axis=0)) and series.dropped == [
        ("003.dcm", "truncated")
    ]
    assert (
        len(series.sop_uids) == len(series.frames) == len(series.positions) == 6
        and "1 gaps" in series.warnings[0]
    )
    data = pydicom.dcmread(tmp_path / "005.dcm")
    save(compressed(data, JPEG_LS, [b"noise" * 9]), tmp_path / "005.dcm")
    series = read_series(tmp_path)
    assert (
        np.array_equal(series.pixels, np.delete(volume(), [3, 5], axis=0))
        and ("005.dcm", "decode_error") in series.dropped
    )
    assert len(series.sop_uids) == len(series.frames) == len(series.positions) == 5
    assert series.warnings == [
        "2 gaps of up to 5.00 mm, the median distance is 2.50 mm"
    ]  # one sentence for both
