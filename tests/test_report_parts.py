"""The report's operating points, groups by size, and worst errors, by slow definitions."""

from base64 import b64decode
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from src.artifacts.files import write_array
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.tables import write_table
from src.evaluation import calibration
from src.labels import LABELS, LOCATIONS, PRESENT
from src.preprocess.intensity import TOP
from tests.evaluations import evaluate, make_tables
from tools.pages import report_errors, report_groups, report_points
from tools.pages.report_calibration import PLACE
from tools.pages.report_inputs import UID, Pooled, read_evaluations
from tools.pages.report_weights import WeightsCheck
from tools.report import Config, name_of

GIVEN = f"{LABELS[PRESENT]} predicted"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(data folder, the pooled predictions of folds 0 and 2)."""
    root = tmp_path_factory.mktemp("parts")
    config = Config(root / "data", root / "model", "net")
    data = DataFolder(config.data_dir)
    series = make_tables(data)
    for fold in (0, 2):
        evaluate(config, series, fold, ("end_to_end",))
    pooled = read_evaluations(data, config.model_dir, config.encoder, WeightsCheck())
    return data, pooled["end_to_end"]


def by_hand(truth, probabilities, wanted, least):
    """The threshold among the probabilities, by trying each."""
    best = None
    for threshold in sorted(probabilities):
        called = probabilities >= threshold
        rates = called[truth == 1].mean(), (~called)[truth == 0].mean()
        reached = {"sensitivity": rates[0], "specificity": rates[1], "both": 1}[wanted] >= least
        value = {"sensitivity": rates[1], "specificity": rates[0], "both": sum(rates)}[wanted]
        if reached and (best is None or value >= best[0]):
            best = value, threshold
    return best[1]


@pytest.mark.parametrize("goal", report_points.GOALS)
def test_the_threshold_of_a_goal_is_that_of_trying_all(goal):
    generator = np.random.default_rng(1)
    truth = (generator.random(60) < 0.4).astype(float)
    probabilities = np.round(0.3 * truth + 0.6 * generator.random(60), 2)  # some are equal
    expected = by_hand(truth, probabilities, *report_points.GOALS[goal])
    found = report_points.chosen(truth, probabilities, goal)
    called, by_trying = probabilities >= found, probabilities >= expected
    np.testing.assert_array_equal(called, by_trying)


def test_a_goal_is_counted_with_thresholds_of_the_other_folds(made):
    _, pooled = made
    table = pooled.table
    truth, given = table[LABELS[PRESENT]].to_numpy(float), table[GIVEN].to_numpy()
    called = np.zeros(len(table), bool)
    for other in (0, 2):
        away = (table.fold == other).to_numpy()
        threshold = by_hand(truth[away], given[away], "sensitivity", 0.9)
        called[~away] = given[~away] >= threshold
    rows = {row[0]: row for row in report_points.section(pooled)["rows"]}
    _, shown, sensitivity, specificity, positive, negative, missed, alarms = rows[
        "sensitivity of 0.90"
    ]
    assert float(shown) == pytest.approx(by_hand(truth, given, "sensitivity", 0.9), abs=5e-4)
    assert missed == f"{(~called[truth == 1]).sum()} of {(truth == 1).sum()}"
    assert alarms == f"{called[truth == 0].sum()} of {(truth == 0).sum()}"
    assert sensitivity.value == pytest.approx(called[truth == 1].mean())
    assert specificity.value == pytest.approx(1 - called[truth == 0].mean())
    assert positive.value == pytest.approx(truth[called].mean())
    assert negative.value == pytest.approx(1 - truth[~called].mean())
    low, high = calibration.wilson(truth[called].mean(), called.sum())  # a patient each
    assert positive.ends == pytest.approx([low, high])


def test_all_of_two_found_is_not_certain(made):
    _, pooled = made
    few = pooled.table.copy()
    few[LOCATIONS[1]] = 0
    few.loc[few.index[:2], [LOCATIONS[1], f"{LOCATIONS[1]} predicted"]] = 1, 0.99
    found = report_points.section(Pooled("", "series", few, 3, 0))["locations"]
    name, sensitivity, *_, missed, _ = found[1]
    assert (name, sensitivity.value, missed) == (LOCATIONS[1], 1.0, "0 of 2")
    assert sensitivity.ends == pytest.approx([0.342, 1.0], abs=1e-3)  # Wilson's, of 2 of 2


def test_sizes_are_those_of_the_largest_aneurysm(made):
    data, pooled = made
    table = pooled.table
    positive = table[table[LABELS[PRESENT]] == 1]
    assert report_groups.size_rows(pooled, report_groups.largest(data), 30) == []
    uids = positive[UID].iloc[[0, 0, 1, 2]].tolist()
    cells = {"SOPInstanceUID": "1.2", "coordinates": "{}", "location": LOCATIONS[0]}
    sizes = pd.DataFrame({UID: uids, "radius_mm": [1.0, 3.0, 1.0, None], **cells})
    write_table(data.localizers, sizes)
    rows = {
        row[0]: row[1:] for row in report_groups.size_rows(pooled, report_groups.largest(data), 30)
    }
    data.localizers.unlink()
    assert [(name, row[0]) for name, row in rows.items()] == [
        ("under 3 mm", 1), ("5 to 10 mm", 1), ("size unknown", len(positive) - 2),
    ]  # fmt: skip
    given = positive[GIVEN].iloc[0]
    lower = table[table[LABELS[PRESENT]] == 0][GIVEN] < given
    assert rows["5 to 10 mm"][1].value == pytest.approx(lower.mean())
    low, high = rows["5 to 10 mm"][1].ends
    assert high - low > 0.2  # one positive shows little


def test_the_worst_errors_come_first_with_pictures_where_there_are_arrays(made, tmp_path):
    data, pooled = made
    table = pooled.table.assign(h=40, w=80, orientation="", row_spacing=0.5, column_spacing=0.5)
    judged = Pooled("", "series", table, 3, 0)
    runs = {fold: RunFolder(tmp_path, "net", fold) for fold in (0, 2)}
    absent = table[table[LABELS[PRESENT]] == 0]
    order = absent.sort_values(GIVEN, ascending=False)[UID].tolist()
    image = np.zeros((12, 64, 64), np.float16)
    image[7] = TOP
    write_array(data.sequence(order[0]), image)
    logits = np.zeros((2, 12, 14), np.float16)
    logits[:, 3, PRESENT] = 5
    write_array(runs[int(absent.set_index(UID).fold[order[1]])].logit(order[1]), logits)
    found = pd.DataFrame([[order[0], 0.2, 7, 40.0, 20.0]], columns=[UID, "probability", *PLACE])
    section = report_errors.section(data, runs, judged, found, 3)
    assert [error["uid"] for error in section["alarms"]] == order[:3]
    missed = table[table[LABELS[PRESENT]] == 1].sort_values(GIVEN)
    assert [error["uid"] for error in section["missed"]] == missed[UID].head(3).tolist()
    named = [label for label in LOCATIONS if missed[label].iloc[0] == 1]
    assert [label for label, _ in section["missed"][0]["locations"]] == named
    assert [error["slice"] for error in section["alarms"]] == [7, 3, 6]  # finding, logits, middle
    assert section["pictures"] and not section["all"]
    source = section["alarms"][0]["picture"]
    coded = np.frombuffer(b64decode(source.partition(",")[2]), np.uint8)
    picture = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert picture.shape == (160, 320, 3)  # 40 x 80 pixels of equal sides
    blue, _, red = picture[82, 162].astype(int)  # the finding's cross, column 40, row 20
    assert red - blue > 100 and (picture[10, 10] > 240).all()


def test_data_are_named_by_their_folder(tmp_path):
    folder = tmp_path / "somebody" / "demo" / "data"
    folder.mkdir(parents=True)
    assert name_of(folder) == "demo/data"
    assert (name_of(Path("data")), name_of(Path("/data")), name_of(Path())) == (
        "data", "data", Path().resolve().name,
    )  # fmt: skip
    (folder / "demo_settings.json").touch()
    assert name_of(folder) == "synthetic series of tools/make_demo_data.py (demo/data)"
