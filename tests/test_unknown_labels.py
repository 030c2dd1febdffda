"""An empty cell of train.csv is unknown: neither learned nor scored, and never taken for 0."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from create_folds import Config, label_slices
from src import distributed
from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.tables import read_train
from src.evaluation import metrics
from src.labels import LABELS, LOCATIONS, MIRROR, NOT_LOCATED, PRESENT, SOMEWHERE, UNKNOWN
from src.sampling import folds, spots, table_check
from src.sampling.spots import slice_labels, window_labels, with_nan
from src.training.losses import focal_loss
from tests.evaluations import percentiles

NAN = np.nan
UID = "SeriesInstanceUID"


def batch(seed=0, rows=6):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 14, generator=generator, dtype=torch.float64) * 3
    return logits, (torch.rand(rows, 14, generator=generator) < 0.3).double()


def gradient(logits, targets, weights):
    """The gradient of the loss for the weights of a layer before the logits."""
    weights = weights.clone().requires_grad_()
    focal_loss(logits * weights, targets).backward()
    return weights.grad


@pytest.mark.parametrize("seed", range(5))
def test_an_unknown_row_gives_the_gradient_of_leaving_it_out(seed):
    logits, targets = batch(seed)
    weights = torch.rand(14, dtype=torch.float64) + 0.5
    masked = targets.clone()
    masked[2] = NAN
    others = [0, 1, 3, 4, 5]
    expected = gradient(logits[others], targets[others], weights)
    torch.testing.assert_close(gradient(logits, masked, weights), expected)
    assert not torch.allclose(gradient(logits, targets, weights), expected)


@pytest.mark.parametrize("seed", range(5))
def test_unknown_elements_are_left_out_one_by_one(seed):
    logits, targets = batch(seed)
    hidden = torch.rand(targets.shape) < 0.4
    masked = targets.masked_fill(hidden, NAN)
    expected = focal_loss(logits[~hidden], targets[~hidden])
    torch.testing.assert_close(focal_loss(logits, masked), expected)
    leaf = logits.clone().requires_grad_()
    focal_loss(leaf, masked).backward()
    assert (leaf.grad[hidden] == 0).all() and (leaf.grad[~hidden] != 0).all()


def test_nothing_known_teaches_nothing():
    logits = torch.randn(3, 14, requires_grad=True)
    loss = focal_loss(logits, torch.full((3, 14), NAN))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_where_all_is_known_the_loss_is_the_mean_bit_for_bit():
    for seed in range(20):
        logits, targets = (each.float() for each in batch(seed, rows=33))
        mine = logits.clone().requires_grad_()
        focal_loss(mine, targets).backward()
        plain = logits.clone().requires_grad_()
        error = torch.nn.functional.binary_cross_entropy_with_logits(
            plain, targets, reduction="none"
        )
        ((targets - plain.sigmoid()).abs() ** 2.0 * error).mean().backward()
        assert torch.equal(mine.grad, plain.grad)


def test_ranks_with_unequally_many_known_labels_count_them_all(monkeypatch):
    logits, targets = batch()
    targets[:2, 3:] = NAN
    known = torch.tensor(int((~targets.isnan()).sum()))
    whole = focal_loss(logits, targets)
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "total", lambda own: known)
    parts = [focal_loss(logits[part], targets[part]) for part in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(sum(parts) / 2, whole)


def series_labels(**known) -> np.ndarray:
    """Labels (14,) of a series, NaN but for the given ones: present=1, at={4: 0}."""
    labels = np.full(14, NAN)
    labels[PRESENT] = known.get("present", NAN)
    for index, value in known.get("at", {}).items():
        labels[index] = value
    return labels


def test_slices_know_what_spots_or_the_series_say():
    series = series_labels(present=1, at={0: 0, 5: 1})
    found = [{"f": 2, "class_id": 4}, {"f": 6, "class_id": NOT_LOCATED}]
    labels = slice_labels(8, found, series)
    assert labels.dtype == np.uint8
    assert labels[:, PRESENT].tolist() == [0, 0, 1, 0, 0, 0, 1, 0]
    assert (labels[:, 0] == 0).all()  # the series is known to have nothing there
    assert labels[:, 4].tolist() == [UNKNOWN, UNKNOWN, 1, *[UNKNOWN] * 5]
    assert labels[:, 5].tolist() == [0] * 6 + [UNKNOWN, 0]  # the spot of slice 6 may be that one
    assert (labels[:, 7] == UNKNOWN).all()


def test_a_series_of_unknown_presence_has_slices_of_unknown_presence_but_at_its_spots():
    labels = slice_labels(4, [{"f": 1, "class_id": 3}], series_labels())
    assert labels[:, PRESENT].tolist() == [UNKNOWN, 1, UNKNOWN, UNKNOWN]


def test_known_labels_are_as_they_were():
    found = [{"f": 1, "class_id": 3}, {"f": 2, "class_id": 3}]
    known = np.zeros(14)
    known[[3, PRESENT]] = 1
    np.testing.assert_array_equal(slice_labels(4, found, known), slice_labels(4, found))
    assert set(slice_labels(4, found, known).ravel()) == {0, 1}


@pytest.mark.parametrize("step", [1, 2])
def test_a_window_is_unknown_only_where_nothing_is_known(step):
    generator = np.random.default_rng(step)
    labels = generator.choice(np.array([0, 1, UNKNOWN], np.uint8), (9, 14), p=(0.6, 0.1, 0.3))
    for slice_ in range(9):
        window = [labels[k] for k in range(slice_ - step, slice_ + step + 1) if 0 <= k < 9]
        found = window_labels(labels, slice_, step)
        assert found.dtype == np.uint8
        for column in range(14):
            values = {int(row[column]) for row in window}
            expected = 1 if 1 in values else UNKNOWN if UNKNOWN in values else 0
            assert found[column] == expected
    mirrored = with_nan(found)[list(MIRROR)]
    assert np.isnan(mirrored).sum() == (found == UNKNOWN).sum() > 0


def meta_of(**rows) -> pd.DataFrame:
    table = pd.DataFrame(rows.values(), index=list(rows), columns=list(LABELS))
    table[UID], table["length"], table["fold"] = table.index, 40, 0
    table["h"] = table["w"] = 64
    table["mod"], table["orientation"] = "CT", ""
    return table


def test_a_series_of_unknown_presence_is_neither_positive_nor_negative():
    meta = meta_of(a=np.zeros(14), b=series_labels(), c=series_labels(present=0))
    labels, safe = label_slices(meta, [], pd.DataFrame({UID: []}), Config())
    assert safe.keys() == {"a", "c"}
    uids = {uid: [f"{uid}.{k}" for k in range(40)] for uid in meta.index}
    table = spots.spot_table([], meta, uids, safe, seed=0)
    assert set(table[UID]) == {"a", "c"}
    assert (labels["b"] == UNKNOWN).all()


def localizer(uid, location) -> pd.Series:
    row = {UID: uid, "SOPInstanceUID": f"{uid}.3", "location": location}
    return pd.Series(row | {"coordinates": "{'x': 5, 'y': 6}"})


@pytest.mark.parametrize("location", ["", "unknown", " Unknown ", "n/a", NAN])
def test_a_localizer_without_location_is_a_spot_where_the_series_has_unknown_ones(location):
    known = np.zeros(14)
    known[[2, PRESENT]] = 1
    meta = meta_of(a=series_labels(present=1), b=known).rename_axis(None)
    sops = {uid: [f"{uid}.{k}" for k in range(40)] for uid in "ab"}
    geometry = {uid: {"frames": np.full(40, -1)} for uid in "ab"}
    spot = spots.locate(localizer("a", location), meta, sops, geometry)
    assert (spot["f"], spot["location"], spot["class_id"]) == (3, SOMEWHERE, NOT_LOCATED)
    with pytest.raises(ValueError, match="unknown location"):
        spots.locate(localizer("b", location), meta, sops, geometry)
    with pytest.raises(ValueError, match="unknown location"):
        spots.locate(localizer("a", "Left MCA"), meta, sops, geometry)


def test_series_with_unknown_labels_are_dealt_evenly():
    generator = np.random.default_rng(0)
    labels = generator.choice([0, 1, NAN], (90, 14))
    table = pd.DataFrame(labels, columns=list(LABELS))
    table[UID], table["patient_id"] = [f"1.{k}" for k in range(90)], ""
    table["Modality"] = "CTA"
    table["fold"] = folds.deal(table, 3, 42)
    assert table.fold.value_counts().tolist() == [30, 30, 30]
    for value in (table[LABELS[PRESENT]].fillna(2) == each for each in (0, 1, 2)):
        counts = table.fold[value].value_counts()
        assert counts.max() - counts.min() <= 1
    shuffled = table.sample(frac=1, random_state=1)
    assert (folds.deal(shuffled, 3, 42) == shuffled.fold).all()


def write_train(root, cells: dict[int, dict[str, str]]) -> DataFolder:
    table = pd.DataFrame({UID: ["1.1", "1.2", "1.3"], "Modality": "CTA"})
    table = table.assign(**dict.fromkeys(LABELS, "0")).astype(str)
    for row, changes in cells.items():
        for label, cell in changes.items():
            table.loc[row, label] = cell
    root.mkdir(exist_ok=True)
    table.to_csv(root / "train.csv", index=False)
    return DataFolder(root)


def test_an_empty_cell_is_read_as_unknown_and_counted(tmp_path, capsys):
    data = write_train(tmp_path, {0: {"Basilar Tip": ""}, 2: dict.fromkeys(LABELS, " ")})
    train = read_train(data)
    assert train["Basilar Tip"].isna().tolist() == [True, False, True]
    assert train[LABELS[0]].isna().tolist() == [False, False, True]
    lines = table_check.doubts(
        pd.DataFrame({UID: [], "location": [], "coordinates": [], "line": [], "fault": []}), train
    )
    assert any("15 of 42 labels are unknown (empty cells), in 2 of 3 series" in x for x in lines)
    assert any("1 of 3 series without any label, the first is 1.3" in x for x in lines)


def test_words_are_still_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"'unknown' is neither 0 nor 1.*leave the cell empty"):
        read_train(write_train(tmp_path, {1: {"Basilar Tip": "unknown"}}))
    contradiction = {1: {"Basilar Tip": "1", "Aneurysm Present": "0"}}
    with pytest.raises(ArtifactError, match="is 0, but a location is 1"):
        read_train(write_train(tmp_path, contradiction))
    possible = {1: {"Basilar Tip": "1", "Aneurysm Present": ""}}
    assert read_train(write_train(tmp_path, possible))["Basilar Tip"][1] == 1


def predictions(rows=80, seed=0):
    generator = np.random.default_rng(seed)
    truth = (generator.random((rows, 14)) < 0.3).astype(float)
    return truth, generator.random((rows, 14)) * 0.5 + truth * 0.3


def test_aucs_are_those_of_the_known_rows():
    truth, probabilities = predictions()
    hidden = np.random.default_rng(1).random(truth.shape) < 0.3
    masked = np.where(hidden, NAN, truth)
    scores = metrics.weighted_score(masked, probabilities)
    for k, label in enumerate(LOCATIONS):
        known = ~hidden[:, k]
        expected = roc_auc_score(truth[known, k], probabilities[known, k])
        assert scores["locations"][label] == pytest.approx(expected, abs=1e-12)
    assert "score_of" not in scores
    zeros = metrics.weighted_score(np.where(hidden, 0, truth), probabilities)
    assert abs(zeros["score"] - scores["score"]) > 1e-3
    ends = percentiles(masked, probabilities, 300)
    assert ends["score"][0] < scores["score"] < ends["score"][1]


def test_the_score_is_what_is_known():
    truth, probabilities = predictions()
    presence, locations = truth.copy(), truth.copy()
    presence[:, :PRESENT], locations[:, PRESENT] = NAN, NAN
    whole = metrics.weighted_score(truth, probabilities)
    scores = metrics.weighted_score(presence, probabilities)
    assert scores["score"] == scores["present"] == whole["present"]
    assert scores["score_of"] == "present" and set(scores["locations"].values()) == {None}
    scores = metrics.weighted_score(locations, probabilities)
    assert scores["score"] == metrics.mean_location(whole) and scores["present"] is None
    assert scores["score_of"] == "locations"
    assert percentiles(presence, probabilities, 50)["mean_location"] is None
    with pytest.raises(metrics.MetricError):
        metrics.weighted_score(np.full_like(truth, NAN), probabilities)
    presence[:, :PRESENT] = 0  # known, and without positives: the folds are too small
    with pytest.raises(metrics.MetricError):
        metrics.weighted_score(presence, probabilities)


def test_labels_of_a_table_stay_whole_numbers_where_all_are_known():
    truth, probabilities = predictions(rows=4)
    predicted = pd.DataFrame(probabilities, columns=[f"{label} predicted" for label in LABELS])
    table = pd.concat([pd.DataFrame(truth.astype(int), columns=list(LABELS)), predicted], axis=1)
    assert metrics.label_arrays(table)[0].dtype == np.int64
    table.loc[1, "Basilar Tip"] = NAN
    assert np.isnan(metrics.label_arrays(table)[0]).sum() == 1
