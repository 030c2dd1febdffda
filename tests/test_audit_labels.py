"""Planted errors in labels are proposed first. Predictions are made up; nothing is trained."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import create_folds
from src.artifacts.files import write_array, write_json
from src.artifacts.paths import ArtifactError, EncoderFolder, RunFolder
from src.artifacts.provenance import MADE_BY
from src.artifacts.tables import read_folds, read_localizers, write_table
from src.labels import LABELS, LOCATIONS, MIRROR, PRESENT, SOMEWHERE
from src.script import UserError
from tests.conftest import FOLDS
from tools import audit_labels
from tools.scoring.proposals import FAR, SWAPPED, UNLABELLED, UNSEEN, Rules, propose

PRESENCE = LABELS[PRESENT]
UID = "SeriesInstanceUID"
RULES = Rules(above=0.5, below=0.1, far=20.0)
NO_DISTANCES = pd.DataFrame(columns=[UID, "label", "mm", "line"])


def predictions_of(series: pd.DataFrame) -> pd.DataFrame:
    """A good network: the truth is 0.2 to 0.95, the rest 0.02 to 0.4."""
    generator = np.random.default_rng(3)
    truth = series[list(LABELS)].to_numpy(float)
    noise = generator.random(truth.shape)
    values = np.where(truth == 1, 0.2 + 0.75 * noise, 0.02 + 0.38 * noise)
    table = pd.DataFrame(values, columns=list(LABELS))
    table.insert(0, UID, series[UID].to_numpy())
    return table


@pytest.fixture
def planted(copied, tmp_path):
    """Sides of one series swapped in the table, the label of another removed."""
    series = read_folds(copied)
    predictions = predictions_of(series)
    sided = [label for k, label in enumerate(LOCATIONS) if MIRROR[k] != k]
    one = series[(series[sided] == 1).any(axis=1)].index[0]
    label = next(name for name in sided if series.at[one, name] == 1)
    other = LABELS[MIRROR[LABELS.index(label)]]
    series.loc[one, [label, other]] = 0, 1  # the network says what was true
    predictions.loc[one, [label, other]] = 0.9, 0.03
    free = series.index[(series[PRESENCE] == 1) & (series.index != one)][0]
    removed = [name for name in LOCATIONS if series.at[free, name] == 1]
    series.loc[free, [*removed, PRESENCE]] = 0
    predictions.loc[free, [*removed, PRESENCE]] = 0.97
    write_table(copied.folds(FOLDS), series)
    model = tmp_path / "model"
    write_table(RunFolder(model, "net", "all").predictions("stage2"), predictions)
    return copied, model, (series[UID][one], other, label), (series[UID][free], removed)


def audit(data, model, **options):
    return audit_labels.main(audit_labels.Config(data.root, model, "net", **options))


def test_planted_errors_come_first_and_can_be_taken_over(planted, tiny):
    data, model, (one, wrong, right), (free, removed) = planted
    table = audit(data, model, panels=6)
    first = [tuple(row) for row in table[[UID, "label", "value", "reason"]].head(2).to_numpy()]
    assert set(first) == {(one, wrong, 0, SWAPPED), (one, right, 1, SWAPPED)}
    then = table.iloc[2 : 3 + len(removed)]
    assert set(then[UID]) == {free} and set(then.label) == {*removed, PRESENCE}
    assert set(then.value) == {1} and set(then.reason) == {UNLABELLED}
    assert len(table) == 3 + len(removed)
    assert table.probability.iloc[0] in (0.9, 0.03) and "0.90" in table.why.iloc[0]
    folder = EncoderFolder(model, "net")
    picture = np.asarray(Image.open(folder.label_picture))
    assert picture.shape[1] == 1600 and picture.std() > 20
    # The file itself is one of overrides: over the planted tables it restores the truth.
    path = data.train_meta
    meta = pd.read_csv(path, dtype={UID: str}).set_index(UID)
    spoilt = read_folds(data).set_index(UID)
    meta[list(LABELS)] = spoilt.loc[meta.index, list(LABELS)]
    meta.reset_index().to_csv(path, index=False)
    data.overrides.write_bytes(folder.label_proposals.read_bytes())
    create_folds.main(create_folds.Config(data.root, folds=FOLDS))
    found, truth = (read_folds(each).set_index(UID)[list(LABELS)] for each in (data, tiny))
    pd.testing.assert_frame_equal(found.loc[truth.index], truth)


def test_the_picture_marks_the_finding_or_shows_the_surest_slice(planted):
    data, model, (one, *_), (free, removed) = planted
    series = read_folds(data).set_index(UID)
    about = series.loc[free]
    logits = np.full((2, about.length, 14), -3, np.float16)
    logits[:, 4, LABELS.index(removed[0])] = 2
    write_array(RunFolder(model, "net", int(about.fold)).logit(free), logits)
    findings = pd.DataFrame(
        {UID: one, "rank": [0], "label": LOCATIONS[0], "location": "", "mm": np.inf, "slice": 7}
    ).assign(column=11.0, row=17.0)
    write_table(RunFolder(model, "net", "all").findings, findings)
    config = audit_labels.Config(data.root, model, "net")
    table = audit(data, model, panels=0)
    assert not EncoderFolder(model, "net").label_picture.exists()
    panels = audit_labels.panels_of(config, data, series.reset_index(), table, findings)
    for panel in panels:
        if panel.row.SeriesInstanceUID == one:
            assert panel.slice == 7 and panel.cross is not None
        if panel.row.SeriesInstanceUID == free:
            assert panel.cross is None
        if panel.row.label == removed[0] and panel.row.SeriesInstanceUID == free:
            assert len(panel.circles) or panel.slice == 4


def test_localizers_far_from_every_finding_are_named_with_their_line(planted):
    data, model, *_ = planted
    localizers = read_localizers(data)
    series = read_folds(data).set_index(UID)
    kept = []
    for row in localizers.drop_duplicates(UID).itertuples():
        if series.at[row.SeriesInstanceUID, row.location] == 1:
            kept.append(row)
    near, far, nowhere, unnamed = kept[:4]
    rows = [(near, near.location, 3.0), (far, far.location, 48.0), (nowhere, "", np.inf)]
    rows.append((unnamed, SOMEWHERE, 31.0))  # an artery that nobody knows
    localizers.loc[localizers[UID] == unnamed.SeriesInstanceUID, "location"] = ""
    write_table(data.localizers, localizers.drop(columns="line"))
    findings = pd.DataFrame(
        [(row.SeriesInstanceUID, 0, row.location, at, mm, 2, 5.0, 5.0) for row, at, mm in rows],
        columns=list(audit_labels.FINDING_COLUMNS),
    )
    write_table(RunFolder(model, "net", "all").findings, findings)
    table = audit(data, model, panels=0)
    found = table[table.reason == FAR]
    assert set(found[UID]) >= {far.SeriesInstanceUID, nowhere.SeriesInstanceUID}
    assert near.SeriesInstanceUID not in set(found[UID][found.label == near.location])
    assert set(found.value) == {1} and table.reason.iloc[0] == SWAPPED
    why = found.set_index([UID, "label"]).why[(far.SeriesInstanceUID, far.location)]
    assert f"line {far.line}:" in why and "48 mm" in why
    why = found.set_index([UID, "label"]).why[(unnamed.SeriesInstanceUID, PRESENCE)]
    assert f"line {unnamed.line}:" in why and "31 mm" in why


def table_of(values: dict, rest: float) -> pd.DataFrame:
    return pd.DataFrame([{UID: "1.2"} | dict.fromkeys(LABELS, rest) | values])


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        ({}, {}, set()),
        ({LABELS[4]: np.nan}, {LABELS[4]: 0.99}, set()),
        ({}, {LABELS[4]: 0.6}, {(LABELS[4], 1), (PRESENCE, 1)}),
        ({}, {PRESENCE: 0.5}, {(PRESENCE, 1)}),
        ({LABELS[4]: 1, PRESENCE: 1}, {LABELS[4]: 0.1, PRESENCE: 0.3}, {(LABELS[4], 0)}),
        (
            {LABELS[4]: 1, PRESENCE: 1},
            {LABELS[4]: 0.3, PRESENCE: 0.05},
            {(LABELS[4], 0), (PRESENCE, 0)},
        ),
        (
            {LABELS[4]: 1, PRESENCE: 1},
            {LABELS[4]: 0.05, LABELS[5]: 0.7, PRESENCE: 0.05},
            {(LABELS[4], 0), (LABELS[5], 1)},
        ),
    ],
)
def test_proposals_never_contradict_themselves(truth, predicted, expected):
    found = propose(table_of(truth, 0), table_of(predicted, 0.2), NO_DISTANCES, RULES)
    assert set(zip(found.label, found.value, strict=True)) == expected


def test_the_largest_disagreement_of_a_kind_is_first():
    truth = pd.concat([table_of({LABELS[k]: 1, PRESENCE: 1}, 0) for k in (11, 12, 6)])
    truth[UID] = ["1.1", "1.2", "1.3"]
    predicted = truth.copy()
    predicted[LABELS[11]], predicted[LABELS[12]] = [0.08, 0.2, 0.7], [0.2, 0.02, 0.95]
    found = propose(truth, predicted, NO_DISTANCES, RULES)
    assert found.label.tolist() == [LABELS[12], LABELS[11], LABELS[12], LABELS[11]]
    assert found.reason.tolist() == [UNLABELLED] * 2 + [UNSEEN] * 2


def test_other_predictions_are_refused(planted):
    data, model, *_ = planted
    path = RunFolder(model, "net", "all").predictions("stage2")
    good = pd.read_csv(path, dtype={UID: str})
    fold = read_folds(data).set_index(UID).fold
    bad = {
        "holds no series of fold 1": good[good[UID].map(fold) != 1],
        "none of the folds": good.replace({UID: {good[UID].iloc[0]: "9.9"}}),
        "or one twice": pd.concat([good, good.head(1)]),
        "no probability": good.assign(**{LABELS[0]: 1.2}),
    }
    for said, table in bad.items():
        table.to_csv(path, index=False)
        with pytest.raises(ArtifactError, match=said):
            audit(data, model)
    good.to_csv(path, index=False)
    judge = RunFolder(model, "net", 1)
    write_json(path.with_suffix(MADE_BY), {"weights": {"1": {judge.best("stage1").name: "0" * 64}}})
    judge.best("stage1").parent.mkdir(parents=True)
    judge.best("stage1").write_bytes(b"trained again")
    with pytest.raises(ArtifactError, match=r"predicted by other weights .* --fold all again"):
        audit(data, model)
    path.unlink()
    write_table(RunFolder(model, "net", 0).predictions("stage2"), good)
    with pytest.raises(ArtifactError, match="--fold all first"):
        audit(data, model)
    with pytest.raises(UserError, match="0 <= below < above <= 1"):
        audit(data, model, above=0.05)
