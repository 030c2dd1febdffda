"""tools/report.py: its numbers, what it reads, what it refuses. Predictions are made up."""

import os
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from src.artifacts.calibration import read_calibration, read_operating_points
from src.artifacts.files import read_json, write_array, write_json
from src.artifacts.paths import DataFolder, EncoderFolder, RunFolder
from src.artifacts.tables import read_table, write_table
from src.evaluation import calibration, metrics, platt
from src.labels import LABELS, PRESENT
from src.script import UserError
from tests.evaluations import LENGTH, SERIES, evaluate, evaluate_spots, make_tables, percentiles
from tools import report
from tools.pages import report_calibration, report_figures
from tools.pages.render import templates
from tools.pages.report_inputs import UID, Pooled, read_evaluations
from tools.pages.report_weights import WeightsCheck, folds_text
from tools.report import Config

DRAWS = 30
NASTY = '<script>alert("x")</script>&\'b'


def pooled_of(config: Config, evaluation: str) -> Pooled:
    data, check = DataFolder(config.data_dir), WeightsCheck()
    return read_evaluations(data, config.model_dir, config.encoder, check)[evaluation]


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """(settings of a report, its series); nothing is evaluated yet, pictures take no time."""
    monkeypatch.setattr(report_figures, "png", lambda draw, *content: b"\x89PNG no picture")
    config = Config(tmp_path / "data", tmp_path / "model", "net/small", DRAWS)
    return config, make_tables(DataFolder(config.data_dir))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole report of folds 0 and 2, of a network with a nasty name: (settings, series, page)."""
    root = tmp_path_factory.mktemp("report")
    config = Config(root / "data", root / "model", NASTY, DRAWS, dataset=NASTY, errors=2)
    series = make_tables(DataFolder(config.data_dir))
    for fold in (0, 2):
        evaluate(config, series, fold)
        evaluate_spots(config, fold)
    data = DataFolder(config.data_dir)
    for uid in series[UID]:
        write_array(data.sequence(uid), np.ones((LENGTH, 8, 8), np.float16))
    rows = [{"name": "within <5 mm", "value": "61 %"}, {"name": "mm", "value": 4.25}]
    write_json(EncoderFolder(config.model_dir, NASTY).localisation, {"rows": rows})
    return config, series, Page(report.main(config).read_text())


class Page:
    """A page, which is also XML: a tag that is not closed, or an unescaped text, is an error."""

    def __init__(self, page: str):
        self.root = ElementTree.fromstring(page)
        self.source, self.text = page, self.words(self.root)

    def words(self, element) -> str:
        return " ".join(" ".join(element.itertext()).split())

    def row(self, name: str, section: str | None = None) -> list[str]:
        """Return the cells behind the name of the first row with it, of a section or the page."""
        sections = [each for each in self.root.iter("section") if each.get("id") == section]
        rows = [
            [self.words(cell) for cell in row] for row in (sections or [self.root])[0].iter("tr")
        ]
        return next(row[1:] for row in rows if row[0] == name)


def test_the_scores_are_those_of_the_pooled_folds(whole):
    config, series, page = whole
    found = series[series.fold.isin((0, 2))]
    files = [RunFolder(config.model_dir, NASTY, fold).predictions("end_to_end") for fold in (0, 2)]
    predictions = pd.concat([pd.read_csv(path, dtype={UID: str}) for path in files])
    arrays = metrics.join_by_uid(found[[UID, *LABELS]], predictions, [UID])
    scores, ends = metrics.weighted_score(*arrays), percentiles(*arrays, DRAWS)["score"]
    expected = f"{scores['score']:.3f} {ends[0]:.3f}–{ends[1]:.3f}"
    assert page.row("weighted score")[-1] == expected
    assert page.row(LABELS[PRESENT])[-1].startswith(f"{scores['present']:.3f} ")
    for label in LABELS[:PRESENT]:
        assert page.row(label)[0] == str(int(found[label].sum()))
        assert page.row(label)[-1].startswith(f"{scores['locations'][label]:.3f} ")
    assert "80 series of folds 0, 2" in page.text and "2 of 3" in page.text
    assert "chosen on the held-out folds" in page.text
    assert "It cannot be checked which weights made predictions_end_to_end.csv" in page.text


def test_groups_and_folds_are_scored_alone(whole):
    config, _, page = whole
    table = pooled_of(config, "end_to_end").table
    groups = {"CTA": table[table.Modality == "CTA"], "axial": table[table.plane == "axial"]}
    groups |= {"F": table[table.PatientSex == "F"], "unknown": table[table.PatientSex == ""]}
    groups["40 to 60 years"] = table[table.PatientAge.isin((40, 59))]
    for name, rows in groups.items():
        score = metrics.weighted_score(*metrics.label_arrays(rows))["score"]
        assert page.row(name)[:2] == [str(len(rows)), str(int(rows[LABELS[PRESENT]].sum()))]
        assert page.row(name)[2].startswith(f"{score:.3f} ")
    assert page.row("coronal")[2:] == ["n/a", "n/a", "n/a", "0"]  # all with aneurysm
    score = metrics.weighted_score(*metrics.label_arrays(table[table.fold == 2]))["score"]
    assert page.row("fold 2")[-3:] == [f"{score:.3f}", "2", "2"]  # score, epochs chosen


def test_the_page_holds_all_it_needs_and_escapes_what_it_is_given(whole):
    page = whole[2]
    policies = [tag.get("content") for tag in page.root.iter("meta") if tag.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    for tag in page.root.iter():
        assert tag.tag not in ("script", "link", "iframe", "object")
        for name, value in tag.items():
            assert not name.startswith("on"), (tag, name)
            picture = re.fullmatch(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+", value)
            assert name not in ("src", "srcset") or picture
            assert name != "href" or value.startswith("#")
    anchors = {tag.get("id") for tag in page.root.iter("section")}
    assert {tag.get("href")[1:] for tag in page.root.iter("a")} == anchors
    assert all(tag.get("alt") for tag in page.root.iter("img"))
    assert "url(" not in page.source and "@import" not in page.source
    assert f"Aneurysm detection: {NASTY} Data: {NASTY}." in page.text
    boxes = [tag for tag in page.root.iter() if tag.get("class") == "box"]
    assert all(tag.get("tabindex") == "0" for tag in boxes)  # a keyboard can scroll them
    assert page.row("within <5 mm") == ["61 %"] and page.row("mm") == ["4.250"]


def test_each_picture_lies_beside_the_page(whole):
    config, _, page = whole
    folder = EncoderFolder(config.model_dir, NASTY)
    names = {"roc.png", "groups.png", "calibration.png", "training.png"}
    assert {path.name for path in folder.report.iterdir()} == names | {"report.html"}
    assert all((folder.report / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert len(list(page.root.iter("img"))) == len(names) + 2 * config.errors


def test_the_calibration_is_fitted_on_all_and_a_rare_label_follows_the_others(whole):
    config, _, page = whole
    folder = EncoderFolder(config.model_dir, NASTY)
    judged = pooled_of(config, "end_to_end")
    labels, probabilities = judged.arrays()
    expected = platt.fit_maps(labels, calibration.logit(probabilities))
    saved, content = read_calibration(folder), read_json(folder.calibration)
    np.testing.assert_array_equal(saved.scales, expected.scales)
    np.testing.assert_array_equal(saved.offsets, expected.offsets)
    assert saved.findings is None and "Findings are not calibrated" in page.text
    assert content["folds"] == [0, 2] and content["n_series"] == 80
    assert labels[:, 0].sum() < calibration.FEWEST and expected.groups[0] == platt.SHARED
    # Operating points: cross-fitted at 0.1, 0.25 and 0.5; as given, where the map says the same.
    after = platt.crossfit(labels, calibration.logit(probabilities), judged.table.fold.to_numpy())
    of_positives = labels[:, PRESENT] == 1
    for points, present in (
        (read_operating_points(folder, True), calibration.sigmoid(after[:, PRESENT])),
        (read_operating_points(folder, False), probabilities[:, PRESENT]),
    ):
        thresholds = np.array([point["threshold"] for point in points])
        shares = [np.mean(present[of_positives] >= each) for each in thresholds]
        assert [point["sensitivity"] for point in points] == shares and len(set(shares)) > 1
        assert {point["positives"] for point in points} == {of_positives.sum()}
    moved = calibration.logit(thresholds) * saved.scales[PRESENT] + saved.offsets[PRESENT]
    np.testing.assert_allclose(moved, np.log([1 / 9, 1 / 3, 1]), atol=1e-9)
    own = [label for label, group in zip(LABELS, expected.groups, strict=True) if group]
    assert f"Of its own here: {', '.join(own)}." in page.text if own else "the same" in page.text
    for k, label in enumerate(LABELS):
        shown = [f"{saved.scales[k]:.3f}", f"{saved.offsets[k]:.3f}"]
        assert page.row(label, "calibration")[1:3] == shown


def test_calibration_after_is_crossfitted_by_fold(whole):
    config, _, page = whole
    pooled = pooled_of(config, "end_to_end")
    labels, probabilities = pooled.arrays()
    logits = calibration.logit(probabilities)
    after = platt.crossfit(labels, logits, pooled.table.fold.to_numpy())
    locations = slice(0, PRESENT)
    for name, chosen in ((LABELS[PRESENT], PRESENT), (report_calibration.TOGETHER, locations)):
        truth, losses, errors = labels[:, chosen].ravel(), [], []
        for each in (logits[:, chosen].ravel(), after[:, chosen].ravel()):
            losses.append(f"{calibration.log_loss(truth, each):.3f}")
            error = calibration.calibration_error(truth, calibration.sigmoid(each))
            errors.append(f"{error:.3f}")
        assert page.row(name, "calibration")[3:7] == [*losses, *errors]
        assert losses[0] != losses[1]
    tops = [each[:, locations].argmax(axis=1) for each in (logits, after)]
    changed = (tops[0] != tops[1]).sum()
    assert f"{changed} of 80 series get another most probable location" in page.text


def test_with_one_fold_the_halves_are_crossfitted(quick):
    config, series = quick
    evaluate(config, series, 1)
    page = Page(report.main(config).read_text())
    assert "those of each half of the series are fitted on the other half" in page.text
    row = page.row(LABELS[PRESENT], "calibration")
    assert row[3] != row[4]


def test_nothing_evaluated_is_refused_in_one_sentence(quick):
    config, _ = quick
    evaluate_spots(config, 0)
    refused = r"net_small holds no predictions of series: run eval_stage2\.py or eval_end_to_end"
    with pytest.raises(UserError, match=rf"^[^.]*{refused}\.py .* first$"):
        report.main(config)
    folder = EncoderFolder(config.model_dir, config.encoder)
    assert not folder.report.exists() and not folder.calibration.exists()


def test_spots_are_judged_by_the_labels_of_their_window(quick):
    config, series = quick
    truth = pd.concat([evaluate_spots(config, fold) for fold in (0, 1)])
    evaluate(config, series, 0)
    spots = pooled_of(config, "stage1")
    found, expected = (table.sort_values([UID, "slice"]) for table in (spots.table, truth))
    np.testing.assert_array_equal(found[[UID, "slice", *LABELS]], expected)
    assert spots.folds == [0, 1]


def test_a_fold_is_judged_by_the_newer_of_its_own_predictions_and_those_of_all(quick):
    config, series = quick
    evaluate(config, series, "all", ("stage2",))
    for fold, seconds in ((0, 5), (1, 15), ("all", 10)):
        evaluate(config, series, fold, ("stage2",))
        path = RunFolder(config.model_dir, config.encoder, fold).predictions("stage2")
        os.utime(path, (seconds, seconds))
    table = pooled_of(config, "stage2").table
    for fold, source in ((0, "all"), (1, 1), (2, "all")):
        path = RunFolder(config.model_dir, config.encoder, source).predictions("stage2")
        written = read_table(path).set_index(UID)[LABELS[PRESENT]]
        rows = table[table.fold == fold]
        assert len(rows) == SERIES // 3
        np.testing.assert_array_equal(rows[f"{LABELS[PRESENT]} predicted"], written[rows[UID]])


def test_folds_that_those_of_all_do_not_hold_are_not_evaluated(quick):
    config, series = quick
    evaluate(config, series[series.fold != 1], "all", ("stage2",))
    pooled = pooled_of(config, "stage2")
    assert (pooled.folds, pooled.dealt, pooled.left_out) == ([0, 2], 3, 0)


def test_the_evaluation_with_most_folds_is_judged_and_end_to_end_among_equals(quick):
    config, series = quick
    evaluate(config, series, 0)
    assert "never saw it (end to end)" in report.main(config).read_text()
    evaluate(config, series, 1, ("stage2",))
    assert "never saw it (stage 2)" in report.main(config).read_text()


def test_series_of_another_fold_are_refused(quick):
    config, series = quick
    evaluate(config, series, 0)
    moved = series.assign(fold=(series.fold + (series.index > 100)) % 3)
    write_table(DataFolder(config.data_dir).folds(3), moved)
    refused = r"stage2\.csv holds series 1\.\d+, which is not of fold 0.*evaluate again"
    with pytest.raises(UserError, match=r"fold-0/predictions_" + refused):
        report.main(config)


def test_series_that_could_not_be_read_are_left_out_and_counted(quick):
    config, series = quick
    evaluate(config, series[~series[UID].isin(["1.30", "1.60"])], 0)
    page = Page(report.main(config).read_text())
    assert "38 series of fold 0" in page.text
    assert "2 more could not be read and are left out" in page.text


def test_sections_without_content_are_left_out(quick):
    config, series = quick
    evaluate(config, series, 0)
    for stage in ("stage1", "stage2"):
        RunFolder(config.model_dir, config.encoder, 0).metrics(stage).unlink()
    page = report.main(config).read_text()
    assert 'id="training"' not in page and 'id="localisation"' not in page
    assert 'id="calibration"' in page


def test_folds_are_named():
    assert folds_text([3]) == "fold 3"
    assert folds_text([0, 1]) == "folds 0, 1"
    assert folds_text([1, 2, 3]) == "folds 1 to 3"
    assert folds_text([0, 1, 3]) == "folds 0, 1, 3"


def test_cells_are_shown():
    cells = (None, 0.12345, 1234, "<b>", (0.5, None), (0.5, [0.4, 0.6]))
    interval = '0.500<span class="ci">0.400–0.600</span>'
    shown = ("n/a", "0.123", "1,234", "&lt;b&gt;", "0.500", interval)
    table = templates.get_template("macros.html").module.table(["a", "b"], [["name", *cells]])
    assert "".join(f"<td>{text}</td>" for text in shown) in table
