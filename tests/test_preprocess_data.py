"""The whole stage: what it writes, and what it does with broken series."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tqdm import tqdm

import preprocess_data
from src.artifacts.files import read_array, read_json, read_pickle
from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.tables import read_meta
from tests.data_folders import contents, make_data, run, script, write_train
from tests.dicom_files import (
    AXES,
    dataset,
    head_in_hu,
    places,
    save,
    volume,
    write_axial,
    write_frames,
)

SCRIPT = Path(__file__).resolve().parents[1] / "preprocess_data.py"
TEMPORARY = "**/.*.tmp"
SERIES = 500  # of a run that is interrupted


def test_what_it_writes(tmp_path):
    root = tmp_path / "data with spaces ü"
    uids = make_data(root, 3)
    axes = AXES["coronal"]
    write_frames(
        root / "series" / "1.9" / "one",
        volume((4, 16, 14))[::-1],
        places(axes, 4)[::-1],
        [*axes[2], *axes[1]],
    )
    write_train(root, [*uids, "1.9"])
    outcome = script(root, cwd=tmp_path)
    assert outcome.wait() == 0 and "4 of 4 series are ready" in outcome.stdout.read()

    data = DataFolder(root)
    meta = read_meta(data)
    added = [*preprocess_data.METADATA_COLUMNS, "head_x", "head_y"]
    assert meta.columns.tolist()[-12:] == added
    assert meta.plane.tolist() == ["axial"] * 3 + ["coronal"]
    assert meta.patient_id.tolist() == ["patient 0", "patient 0", "patient 1", "p1"]
    for uid in meta.SeriesInstanceUID:
        array = read_array(data.sequence(uid))
        assert (
            array.shape == (4, 20, 20)
            and array.dtype == np.float16
            and array.min() >= 0
            and array.max() <= 5
        )
        for k in range(4):
            assert np.array_equal(read_array(data.slice(uid, k)), array[k])
    assert read_pickle(data.slice_uids)["1.2.1"] == ["1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.3.4"]
    geometry = read_pickle(data.geometry)
    assert geometry["1.2.1"]["positions"].tolist() == [10, 12.5, 15, 17.5] and geometry["1.9"][
        "frames"
    ].tolist() == [3, 2, 1, 0]
    assert read_json(data.array_settings) == {"image_size": 20, "mr_window": "percentile"}
    assert pd.read_csv(data.failed_series).empty and not list(root.glob(TEMPORARY))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Path:
    """One series of each kind of fault among good ones."""
    root = tmp_path_factory.mktemp("faulty")
    good = make_data(root, 4)
    faults = {
        "1.9.1": "missing",
        "1.9.2": "no_dicom",
        "1.9.3": "not_dicom",
        "1.9.4": "truncated",
        "1.9.5": "too_large",
        "1.9.6": "bad_rescale",
    }
    faults["1.9.7"] = "truncated"  # found when it is decoded
    series = root / "series"
    (series / "1.9.2").mkdir()
    (series / "1.9.3").mkdir()
    (series / "1.9.3" / "page.dcm").write_text("<html>" * 100)
    path = save(dataset(volume()[0]), series / "1.9.4" / "cut.dcm")
    path.write_bytes(path.read_bytes()[:-50])
    few = dataset(volume()[0])
    few.compress("1.2.840.10008.1.2.5")
    for uid, claim in (("1.9.5", 500000), ("1.9.7", 3)):
        few.NumberOfFrames = claim
        save(few, series / uid / "frames.dcm")
    save(
        dataset(volume()[0], RescaleSlope="1e38", RescaleIntercept=0),
        series / "1.9.6" / "slope.dcm",
    )
    write_train(root, [*faults, *good])
    (root / "expected.csv").write_text(
        "\n".join(f"{uid},{reason}" for uid, reason in faults.items())
    )
    return root


def test_broken_series_are_rows_and_the_rest_is_done(faulty):
    outcome = script(faulty)
    text = outcome.communicate()[0]
    assert (
        outcome.returncode == 3 and "Traceback" not in text and "4 of 11 series are ready" in text
    )
    failed = pd.read_csv(faulty / "failed_series.csv", dtype=str)
    assert sorted(
        f"{uid},{reason}"
        for uid, reason in zip(failed.SeriesInstanceUID, failed.reason, strict=True)
    ) == sorted((faulty / "expected.csv").read_text().split())
    assert failed.detail.str.len().min() > 10
    assert sorted(read_meta(DataFolder(faulty)).SeriesInstanceUID) == [
        "1.2.1",
        "1.2.2",
        "1.2.3",
        "1.2.4",
    ]


def test_the_report_writes_no_arrays(faulty, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(faulty / "series", root / "series")
    shutil.copy(faulty / "train.csv", root)
    (root / "train_localizers.csv").write_text(
        "SeriesInstanceUID,SOPInstanceUID,coordinates,location\n"
        "1.2.1,1.2.3.2,\"{'x': 3.0, 'y': 4.0}\",Basilar Tip\n"
        "1.2.1,1.2.3.77,\"{'x': 3.0, 'y': 4.0}\",Basilar Tip\n"
    )
    failed = run(root, check=True)  # from headers: nothing is decoded
    text = capsys.readouterr().out
    for line in (
        "5 of 11 series can be read, 19 slices",
        "mod                MR 5",
        "plane              axial 4, unknown 1",
        "16 x 14 4, 12 x 10 1",
    ):
        assert line in text
    for line in (
        "3, 2 of them with several series",
        "1 point to a slice; lost: SOPInstanceUID not in the series 1",
        "1 failed: too_large",
    ):
        assert line in text
    report = pd.read_csv(root / "series_report.csv")
    assert len(report) == 11 and report.reason.notna().sum() == len(failed) == 6
    assert not (root / "npy_sequence").exists()


def test_what_the_report_says(tmp_path, capsys):
    uids = make_data(tmp_path, 4, (6, 16, 14))
    folders = [tmp_path / "series" / uid for uid in uids]
    for folder in folders[1:]:
        shutil.rmtree(folder)
    (folders[0] / "002.dcm").unlink()
    (folders[0] / "empty.dcm").touch()
    axes = AXES["sagittal"]
    write_frames(
        folders[1] / "one",
        volume((4, 8, 8)),
        places(axes, 4, spacing=4.0),
        [*axes[2], *axes[1]],
        PatientID="patient 0",
    )
    write_axial(
        folders[2], head_in_hu(slices=4), modality="CT", RescaleSlope=1, RescaleIntercept=-1024
    )
    data = dataset(volume()[0])
    data.compress("1.2.840.10008.1.2.5")
    save(data, folders[3] / "one")
    assert run(tmp_path, check=True).empty
    lines = capsys.readouterr().out.splitlines()
    assert "storage            one file a slice 3, multi-frame 1" in lines
    assert "syntax             Explicit VR Little Endian 3, RLE Lossless 1" in lines
    assert "slice_spacing      0%: 2.50, 5%: 2.50, 50%: 2.50, 95%: 3.85, 100%: 4.00" in lines
    assert "row_spacing        0%: 0.75, 5%: 0.75, 50%: 0.75, 95%: 0.75, 100%: 0.75" in lines
    assert (
        "files left out     empty 1" in lines
        and "plane              axial 2, sagittal 1, unknown 1" in lines
    )
    [doubts] = [line for line in lines if line.startswith("doubtful series")]
    for doubt in (
        "CT stored in HU: its rescale intercept was ignored 1",
        "no distance between slices 1",
        "# gaps of up to # mm",
    ):
        assert doubt in doubts
    report = pd.read_csv(tmp_path / "series_report.csv", index_col=0)
    assert (
        report.dropped[uids[0]] == "empty 1"
        and report.storage[uids[1]] == "multi-frame"
        and report.syntax[uids[3]] == "RLE Lossless"
    )
    assert report.warnings[uids[2]] == "CT stored in HU: its rescale intercept was ignored"


@pytest.mark.parametrize("check", [False, True])
def test_all_series_broken_ends_with_an_error(check, tmp_path):
    write_train(tmp_path, ["1.1", "1.2"])
    table = "series_report.csv" if check else "failed_series.csv"
    with pytest.raises(ArtifactError, match=f"none of the 2 series could be read: see .*{table}"):
        run(tmp_path, check=check)
    assert len(pd.read_csv(tmp_path / table)) == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names must be UTF-8 elsewhere")
def test_a_file_name_that_is_not_utf_8(tmp_path):
    [uid] = make_data(tmp_path, 1)
    (tmp_path / "series" / "1.9").mkdir()
    for folder in (uid, "1.9"):
        Path(os.fsdecode(os.fsencode(tmp_path / "series" / folder) + b"/bad\xff")).write_text(
            "text " * 99
        )
    write_train(tmp_path, [uid, "1.9"])
    [detail] = run(tmp_path).detail
    assert (
        "bad\\udcff" in detail and pd.read_csv(tmp_path / "failed_series.csv").detail[0] == detail
    )
    assert read_json(DataFolder(tmp_path).facts(uid))["dropped"] == [["bad\\udcff", "not_dicom"]]
    run(tmp_path, check=True)


def test_without_a_progress_bar(tmp_path, monkeypatch):
    """As with TQDM_DISABLE=1, which tqdm reads when it is imported."""
    make_data(tmp_path, 1)
    monkeypatch.setattr(preprocess_data, "progress", lambda *_, **__: tqdm(disable=True))
    assert run(tmp_path).empty


def test_names_of_files_and_the_order_in_which_they_were_made_do_not_matter(tmp_path):
    make_data(tmp_path / "a", 3)
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "train.csv", tmp_path / "b")
    generator = np.random.default_rng(0)
    for folder in sorted((tmp_path / "a" / "series").iterdir()):
        paths = sorted(folder.iterdir())
        for name, k in enumerate(generator.permutation(len(paths))):
            target = tmp_path / "b" / "series" / folder.name / f"I{name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(paths[k], target)
    for root in (tmp_path / "a", tmp_path / "b"):
        run(root)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


NO_NETWORK = """
import sys

def refuse(event, arguments):
    to_a_host = event == "socket.connect" and isinstance(arguments[1], tuple)
    if event == "socket.getaddrinfo" or to_a_host:
        raise OSError("no network")

sys.addaudithook(refuse)
"""


def test_without_a_network(tmp_path):
    """Sockets to elsewhere are refused in the script and in its workers."""
    make_data(tmp_path / "data", 2)
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    probe = "import socket; socket.create_connection(('127.0.0.1', 9))"
    assert (
        "no network"
        in subprocess.run(
            [sys.executable, "-c", probe], env=environment, capture_output=True, text=True
        ).stderr
    )
    child = script(tmp_path / "data", env=environment)
    assert "2 of 2 series are ready" in child.communicate()[0] and child.returncode == 0


def test_a_uid_that_leads_elsewhere_is_refused(tmp_path):
    write_train(tmp_path, ["../../etc"])
    with pytest.raises(ArtifactError, match="not a DICOM UID"):
        run(tmp_path)


def test_a_patient_of_the_table_stands_for_that_of_the_files():
    metadata = {uid: {"patient_id": "of the files"} for uid in ("1.1", "1.2")}
    train = pd.DataFrame({"SeriesInstanceUID": ["1.1", "1.2", "1.3"]})
    preprocess_data.use_given_patients(metadata, train)
    assert metadata["1.1"] == {"patient_id": "of the files"}
    preprocess_data.use_given_patients(metadata, train.assign(PatientID=["007", "", "p3"]))
    assert [row["patient_id"] for row in metadata.values()] == ["007", "of the files"]
