import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.artifacts.checkpoints import read_checkpoint, write_checkpoint
from src.artifacts.files import (
    array_layout,
    atomic,
    read_pickle,
    read_slices,
    write_array,
)
from src.artifacts.paths import ArtifactError, DataFolder, RunFolder
from src.artifacts.provenance import keep_features_of, require_features_of, settle
from src.artifacts.tables import read_train, remove_fold_tables, write_table
from src.labels import LABELS


class Harm:
    """Pickles into a call that leaves a trace."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_arrays_come_back(tmp_path, protocol):
    content = {
        "1.2": np.array([3, 7]),
        "1.3": np.zeros((4, 14), np.uint8),
        "1.4": ["a", "b"],
        "1.5": {"positions": np.array([1.5])},
        "1.6": np.float64(2),
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    back = read_pickle(tmp_path / "x.pkl")
    assert back.keys() == content.keys()
    np.testing.assert_array_equal(back["1.2"], content["1.2"])
    np.testing.assert_array_equal(back["1.3"], content["1.3"])
    assert back["1.4"] == content["1.4"]


@pytest.mark.parametrize("place", ["value", "array"])
def test_an_unsafe_pickle_is_refused_and_not_executed(tmp_path, place):
    harm = Harm(tmp_path / "trace")
    content = {"1.2": harm if place == "value" else np.array([harm], object)}
    (tmp_path / "f_dict_hard.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ArtifactError, match=r"f_dict_hard\.pkl.*(mkdir|O8)"):
        read_pickle(tmp_path / "f_dict_hard.pkl")
    assert not (tmp_path / "trace").exists()


def test_an_unsafe_checkpoint_is_refused_and_not_executed(tmp_path):
    torch.save(
        {"labels": list(LABELS), "weights": Harm(tmp_path / "trace")}, tmp_path / "best_stage1.pth"
    )
    with pytest.raises(ArtifactError, match="plain tensors"):
        read_checkpoint(tmp_path / "best_stage1.pth", ("weights",))
    assert not (tmp_path / "trace").exists()


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "best_stage1.pth"
    with pytest.raises(ArtifactError, match=r"run train_stage1\.py first"):
        read_checkpoint(path, ())
    write_checkpoint(path, {"weights": {"a": torch.ones(3)}})
    assert read_checkpoint(path, ("weights",))["weights"]["a"].tolist() == [1, 1, 1]
    with pytest.raises(ArtifactError, match="no 'settings'"):
        read_checkpoint(path, ("weights", "settings"))
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ArtifactError, match="not a whole checkpoint"):
            read_checkpoint(path, ("weights",))
    torch.save({"labels": list(LABELS)[::-1], "weights": {}}, path)
    with pytest.raises(ArtifactError, match="another order"):
        read_checkpoint(path, ("weights",))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    write_table(path, pd.DataFrame({"a": [1]}))
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), atomic(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_a_full_disk_is_one_sentence_with_the_path(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ArtifactError, match=r"a\.npy cannot be written \(No space left"):
        write_array(tmp_path / "a.npy", np.ones(3))
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.integers(0, 8), min_size=1, max_size=6))
def test_positioned_reads_equal_numpy(tmp_path_factory, indices):
    path = tmp_path_factory.mktemp("reads") / "a.npy"
    array = np.random.default_rng(0).random((9, 5, 5)).astype(np.float16)
    np.save(path, array)
    np.testing.assert_array_equal(read_slices(path, np.array(indices)), array[indices])


@pytest.mark.parametrize("cut", [5, 60, 140, -1])
def test_an_array_that_is_cut_short_is_refused(tmp_path, cut):
    path = tmp_path / "npy_sequence" / "1.2.npy"
    write_array(path, np.zeros((4, 8, 8), np.float16))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ArtifactError, match=r"1\.2\.npy"):
        array_layout(path)


@pytest.mark.parametrize("uid", ["../../etc", "1.2/3", "", "1.2.x", "..", "1" * 65])
def test_what_is_no_uid_never_becomes_a_path(uid):
    with pytest.raises(ArtifactError, match="not a DICOM UID"):
        DataFolder("data").sequence(uid)


def train_table(rows=3):
    series = pd.DataFrame(0, index=range(rows), columns=list(LABELS))
    series.insert(0, "SeriesInstanceUID", [f"1.{k}" for k in range(rows)])
    series.insert(1, "Modality", "CTA")
    return series


def test_train_csv_with_bom_crlf_and_more_columns_is_read(tmp_path):
    text = train_table().assign(more=1).to_csv(index=False).replace("\n", "\r\n")
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    table = read_train(DataFolder(tmp_path))
    assert table.SeriesInstanceUID.tolist() == ["1.0", "1.1", "1.2"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda t: t.drop(columns=LABELS[3]), "has no column"),
        (
            lambda t: t.astype({LABELS[3]: float}).replace({LABELS[3]: {0.0: 2.0}}),
            r"line 2: .*neither 0 nor 1",
        ),
        (lambda t: t.assign(**{LABELS[5]: ["0", "nan", "0"]}), r"line 3: .*neither 0 nor 1"),
        (
            lambda t: t.assign(SeriesInstanceUID=["1.1", "1.2", "1.1"]),
            "line 4: series 1.1 appears twice",
        ),
        (lambda t: t.assign(SeriesInstanceUID=["1.1", "../x", "1.3"]), "not a DICOM UID"),
        (lambda t: t.iloc[:0], "has no rows"),
    ],
)
def test_a_faulty_train_csv_is_named_by_column_and_line(tmp_path, fault, message):
    fault(train_table()).to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(ArtifactError, match=message):
        read_train(DataFolder(tmp_path))


def test_settings_that_differ_are_refused_with_both_values(tmp_path):
    path = tmp_path / "settings.json"
    settle(path, {"image_size": 512}, "delete it")
    settle(path, {"image_size": 512}, "delete it")
    with pytest.raises(ArtifactError, match=r"image_size 512, not 96: delete it"):
        settle(path, {"image_size": 96}, "delete it")


def test_features_of_other_weights_are_removed_before_and_refused_after_extraction(tmp_path):
    run = RunFolder(tmp_path, "test_convnext", 0)
    keep_features_of(run, "a")
    write_array(run.feature("1.2"), np.zeros((2, 3, 4), np.float16))
    keep_features_of(run, "a")
    assert run.feature("1.2").exists()
    with pytest.raises(ArtifactError, match="other weights"):
        require_features_of(run, "b")
    with pytest.raises(ArtifactError, match="other weights"):
        keep_features_of(run, "b", "2/3")
    keep_features_of(run, "b")
    assert not run.feature("1.2").exists()


@pytest.mark.parametrize("how", ["arrays", "features"])
def test_parts_that_start_in_the_same_moment_do_not_meet(tmp_path, how):
    """Threads stand for processes: their files are the same. 20 turns: a collision needs luck."""
    parts = [f"{i}/4" for i in range(1, 5)]
    for turn in range(20):
        run, gate = RunFolder(tmp_path, f"net{turn}", 0), Barrier(len(parts))

        def start(part, run=run, gate=gate):
            gate.wait()
            if how == "arrays":
                settle(run.root / "settings.json", {"image_size": 512}, "delete it")
            else:
                keep_features_of(run, "a", part)
                write_array(run.feature(part.replace("/", ".")), np.zeros(1))

        with ThreadPoolExecutor(len(parts)) as pool:
            assert list(pool.map(start, parts)) == [None] * len(parts)
        kept = run.features if how == "features" else run.root
        assert sorted(path.name for path in kept.iterdir() if path.suffix != ".npy") == [
            "settings.json"
        ]


def test_the_number_of_folds_is_told_by_the_table(tmp_path):
    data = DataFolder(tmp_path)
    with pytest.raises(ArtifactError, match=r"run create_folds\.py first"):
        data.fold_count()
    data.folds(7).touch()
    data.spots(7).touch()
    assert data.fold_count() == 7
    remove_fold_tables(data)
    assert list(tmp_path.iterdir()) == []
