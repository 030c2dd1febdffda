"""What is named to predict: archives within bounds, and the series of single files."""

import io
import os
import tarfile
import zipfile

import pandas as pd
import pytest

from src.artifacts import unpack
from src.dicom import Series
from src.inference.inputs import batches
from src.inference.studies import study_table
from src.labels import LABELS
from src.script import UserError
from src.worker_pool import Failure
from tests.dicom_files import volume, write_axial
from tools import predict

UIDS = ("1.2.5", "1.2.6")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two series with files of the same names, and below one of them the copy of a third."""
    folder = tmp_path_factory.mktemp("study")
    for uid, name in zip((*UIDS, "1.2.7"), ("a", "b", "a/below"), strict=True):
        write_axial(folder / name, volume((3, 16, 16)), SeriesInstanceUID=uid)
    return folder


def opened(temporary, *paths):
    """Return (name, slices or reason) of all series; what is unpacked is gone afterwards."""
    found = []
    for batch in batches(paths, temporary):
        for name, series in batch:
            good = isinstance(series, Series)
            found.append((name, len(series.slices) if good else series))
            if good:
                assert all(slice_.file.path.exists() for slice_ in series.slices)
    assert not list(temporary.iterdir())
    return found


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2"])
def test_the_series_of_an_archive(study, tmp_path, kind):
    archive, temporary = tmp_path / f"study.{kind}", tmp_path / "t"
    temporary.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in study.rglob("*.dcm"):  # as Windows would
                file.writestr(str(path.relative_to(study)).replace("/", "\\"), path.read_bytes())
            file.writestr("__MACOSX/a/._000.dcm", b"none")
    else:
        with tarfile.open(archive, f"w:{kind[4:]}") as file:
            file.add(study, ".")
    assert opened(temporary, archive) == [(uid, 3) for uid in (*UIDS, "1.2.7")]


def test_files_stand_for_their_series_once(study, tmp_path):
    """With all files beside them, not with those of folders below, and whatever else is there."""
    one, other = study / "a" / "000.dcm", study / "a" / "002.dcm"
    assert opened(tmp_path, one, other, study / "b") == [(UIDS[1], 3), (UIDS[0], 3)]
    missing = study / "nothing"
    (name, failure), *_ = opened(tmp_path, missing)
    assert (name, failure.reason) == (str(missing), "missing")


def tar_of(path, *members, content=b""):
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(content))


def member(name, size=0, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, "/etc/passwd"
    return info


def written(kind, path):
    """Write an archive that has to be refused."""
    if kind == "outside":
        tar_of(path, member("../x"))
    elif kind == "absolute":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("/x", b"")
    elif kind == "link":
        tar_of(path, member("x"), member("y", kind=tarfile.SYMTYPE))
    elif kind == "bomb":
        tar_of(path, member("x", 10**6), content=bytes(10**6))
    elif kind == "zip bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x", bytes(10**6))
    elif kind == "long header":
        tar_of(path, member("x" * 40_000))
    elif kind == "many":
        tar_of(path, *(member(str(k)) for k in range(5)))
    elif kind == "cut":
        tar_of(path, member("x", 900), content=os.urandom(900))
        path.write_bytes(path.read_bytes()[:-400])
    elif kind == "empty":
        with zipfile.ZipFile(path, "w"):
            pass


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("outside", "has a path that leads out of it (member 1): unpack it first"),
        ("absolute", "has a path that leads out of it (member 1): unpack it first"),
        ("link", "holds a link or a device (member 2): unpack it first"),
        ("bomb", "would unpack to more than 0 MiB: unpack it first"),
        ("zip bomb", "would unpack to more than 0 MiB: unpack it first"),
        ("long header", "is damaged or cut (ValueError)"),
        ("many", "has more than 4 members: unpack it first"),
        ("cut", "is damaged or cut (EOFError)"),
        ("empty", "holds no files"),
    ],
)
def test_an_archive_is_refused_in_one_sentence(tmp_path, monkeypatch, kind, said):
    monkeypatch.setattr(unpack, "ALWAYS", 0)
    monkeypatch.setattr(unpack, "MOST_FILES", 4)
    archive, temporary = tmp_path / "study", tmp_path / "t"
    temporary.mkdir()
    written(kind, archive)
    [(name, failure)] = opened(temporary, archive)
    assert name == str(archive) and isinstance(failure, Failure)
    assert failure.detail.endswith(f"study {said}")


def test_what_is_missing_is_said_before_networks_are_loaded(study, tmp_path):
    for name in ("net/fold-0", "net/fold-1", "other/all-data"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "weights_inference.pth").touch()
    there = rf"trained networks in {tmp_path}: net \(fold-0, fold-1\); other \(all-data\)"

    def refuses(said, *paths, **settings):
        settings = {"model_dir": tmp_path, "encoder": "net", "device": "cpu"} | settings
        with pytest.raises(UserError, match=f"^{said}$"):
            predict.main(predict.Config(paths, tmp_path / "out", **settings))

    refuses(f"name what to predict: folders, zip .*; {there}")
    refuses(f"{study}/x does not exist, nor do the 1 others", study / "x", study / "y")
    refuses(f"--folds needs at least one number, as in --folds 0: {there}", study, folds=())
    refuses(f".*/no/fold-0/.* is missing: run train_stage2.py .*; {there}", study, encoder="no")
    no_model = {"model_dir": tmp_path / "no"}
    refuses(f".*: the folder {tmp_path}/no does not exist, name it .*", study, folds=(), **no_model)
    (tmp_path / "out").mkdir()
    for name in ("1.2.json", "1.2.html"):
        (tmp_path / "out" / name).touch()
    refuses(".*/out holds series of an earlier run: delete it or name another --out", study)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_study_has_the_highest_of_its_series():
    values = pd.DataFrame([[0.1] * 14, [0.2] * 14, [0.3] * 14, [0.9] * 14], columns=list(LABELS))
    values.iloc[0, 0] = 0.8
    values.insert(0, "SeriesInstanceUID", ["1", "2", "3", "4"])
    table = study_table(values, ["7", "7", "", ""])
    assert table.StudyInstanceUID.tolist() == ["", "", "7"]
    assert table.series.tolist() == [1, 1, 2] and table.highest.tolist() == ["4", "3", "2"]
    assert table.loc[2, [LABELS[0], LABELS[-1]]].tolist() == [0.8, 0.2]
    assert study_table(values[:0], []).empty
