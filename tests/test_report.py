"""The report (tools/report.py): the numbers on it, what it is made of, what it refuses. Predictions are written without networks."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from src.artifacts.files import append_line, read_json, read_pickle, write_json, write_pickle
from src.artifacts.paths import DataFolder, EncoderFolder, RunFolder
from src.artifacts.tables import read_spots, read_table, write_table
from src.evaluation import calibration, metrics
from src.labels import LABELS, NOTHING, PRESENT
from src.script import UserError
from tools import report
from tools.pages import report_figures, report_page
from tools.pages.report_inputs import read_evaluations
from tools.report import Config

SERIES, LENGTH, DRAWS = 120, 12, 30
NASTY = '<script>alert("x")</script>&\'b'
PIXEL = b"\x89PNG no picture"


def make_tables(data: DataFolder) -> pd.DataFrame:
    """Three folds; the coronal series all have an aneurysm; the first location occurs 4 times, 2 of them in fold 0."""
    generator = np.random.default_rng(0)
    labels = (generator.random((SERIES, len(LABELS))) < 0.2).astype(int)
    labels[:, 0] = np.isin(np.arange(SERIES), (0, 3, 4, 5))
    labels[:, PRESENT] = generator.random(SERIES) < 0.5
    labels[:10, PRESENT] = 1
    uids = [f"1.{k}" for k in range(SERIES)]
    facts = {
        "fold": np.arange(SERIES) % 3,
        "length": LENGTH,
        "Modality": ["CTA", "MRA"] * (SERIES // 2),
        "plane": ["coronal"] * 10 + ["axial"] * (SERIES - 10),
    }
    series = pd.DataFrame(
        {"SeriesInstanceUID": uids}
        | {label: labels[:, k] for k, label in enumerate(LABELS)}
        | facts
    )
    write_table(data.folds(3), series)

    spots = pd.DataFrame(
        {
            "SeriesInstanceUID": uids,
            "location": NOTHING,
            "fold": series.fold,
            "length": LENGTH,
            "f": generator.integers(-1, LENGTH, SERIES),
        }
    )
    write_table(data.spots(3), spots.assign(class_id=PRESENT, x_512=0.0, y_512=0.0))
    write_pickle(
        data.labels,
        {uid: (generator.random((LENGTH, len(LABELS))) < 0.2).astype(np.uint8) for uid in uids},
    )
    return series


def write_predictions(
    run: RunFolder, evaluation: str, keys: pd.DataFrame, labels: np.ndarray, seed: int
) -> None:
    """Probabilities that know a little about the labels, in another order than these."""
    generator = np.random.default_rng(seed)
    probabilities = calibration.sigmoid(generator.normal(1.5 * labels - 1.5, 1))
    table = pd.concat(
        [keys.reset_index(drop=True), pd.DataFrame(probabilities, columns=list(LABELS))], axis=1
    )
    write_table(run.predictions(evaluation), table.sample(frac=1, random_state=seed))


def evaluate(
    config: Config, series: pd.DataFrame, fold: int | str, evaluations=("stage2", "end_to_end")
) -> None:
    """What the eval scripts leave of a fold."""
    held_out = series if fold == "all" else series[series.fold == fold]
    run = RunFolder(config.model_dir, config.encoder, fold)
    for evaluation in evaluations:
        write_predictions(
            run,
            evaluation,
            held_out[["SeriesInstanceUID"]],
            held_out[list(LABELS)].to_numpy(),
            seed=7 if fold == "all" else fold,
        )
    for stage in ("stage1", "stage2"):
        for epoch in (1, 2, 3):
            scores = None if epoch == 1 else {"score": 0.9 - epoch / 10, "present": 0.5}
            append_line(
                run.metrics(stage),
                json.dumps({"epoch": epoch, "loss": 1 / epoch, "scores": scores}),
            )


def evaluate_spots(config: Config, fold: int) -> pd.DataFrame:
    """predictions_stage1.csv of a fold; returns the rows with their true labels by the slow definition."""
    data = DataFolder(config.data_dir)
    spots, labels, rows = read_spots(data), read_pickle(data.labels), []
    for row in spots[(spots.fold == fold) & (spots.f >= 0)].itertuples():
        near = [
            labels[row.SeriesInstanceUID][k]
            for k in (row.f - 1, row.f, row.f + 1)
            if 0 <= k < LENGTH
        ]
        rows.append([row.SeriesInstanceUID, row.f, *np.any(near, axis=0).astype(int)])
    truth = pd.DataFrame(rows, columns=["SeriesInstanceUID", "slice", *LABELS])
    write_predictions(
        RunFolder(config.model_dir, config.encoder, fold),
        "stage1",
        truth[["SeriesInstanceUID", "slice"]],
        truth[list(LABELS)].to_numpy(),
        fold,
    )
    return truth


@pytest.fixture
def made(tmp_path):
    """(settings of a report, its series); nothing is evaluated yet."""
    config = Config(tmp_path / "data", tmp_path / "model", "net/small", DRAWS)
    return config, make_tables(DataFolder(config.data_dir))


@pytest.fixture
def quick(made, monkeypatch):
    """The same, with pictures that take no time."""
    monkeypatch.setattr(report_figures, "png", lambda draw, content, narrow: PIXEL)
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole report of folds 0 and 2, of a network with a nasty name: (settings, series, page)."""
    root = tmp_path_factory.mktemp("report")
    config = Config(root / "data", root / "model", NASTY, DRAWS)
    series = make_tables(DataFolder(config.data_dir))
    for fold in (0, 2):
        evaluate(config, series, fold)
        evaluate_spots(config, fold)
    write_json(
        EncoderFolder(config.model_dir, NASTY).localisation,
        {"rows": [{"name": "within <5 mm", "value": "61 %"}, {"name": "mm", "value": 4.25}]},
    )
    return config, series, report.main(config).read_text()


class Document(HTMLParser):
    """Checks that tags are closed in order; keeps tags with attributes, the text, and the cells of tables by row."""

    VOID = {"meta", "img", "source", "br"}

    def __init__(self, page: str):
        super().__init__()
        self.open, self.tags, self.text, self.rows = [], [], "", []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if "style" not in self.open else ""
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data + " "

    def row(self, name: str, place: int = 0) -> list[str]:
        return [
            [cell.strip() for cell in row[1:]]
            for row in self.rows
            if row and row[0].strip() == name
        ][place]


def test_the_scores_are_those_of_the_pooled_folds(whole):
    config, series, page = whole
    document = Document(page)
    found = series[series.fold.isin((0, 2))]
    files = [RunFolder(config.model_dir, NASTY, fold).predictions("end_to_end") for fold in (0, 2)]
    predictions = pd.concat([pd.read_csv(path, dtype={"SeriesInstanceUID": str}) for path in files])
    labels, probabilities = metrics.join_by_uid(
        found[["SeriesInstanceUID", *LABELS]], predictions, ["SeriesInstanceUID"]
    )
    scores, ends = (
        metrics.weighted_score(labels, probabilities),
        metrics.intervals(labels, probabilities, DRAWS),
    )
    assert (
        document.row("weighted score")[-1]
        == f"{scores['score']:.3f} {ends['score'][0]:.3f}–{ends['score'][1]:.3f}"
    )
    assert document.row(LABELS[PRESENT])[-1].startswith(f"{scores['present']:.3f} ")
    for label in LABELS[:PRESENT]:
        assert document.row(label)[0] == str(int(found[label].sum()))
        assert document.row(label)[-1].startswith(f"{scores['locations'][label]:.3f} ")
    assert "80 series of folds 0, 2" in document.text and "2 of 3" in document.text
    assert "chosen on the held-out folds" in document.text


def test_groups_and_folds_are_scored_alone(whole):
    config, _, page = whole
    document = Document(page)
    pooled = read_evaluations(DataFolder(config.data_dir), config.model_dir, NASTY)["end_to_end"]
    for name, rows in (
        ("CTA", pooled.table[pooled.table.Modality == "CTA"]),
        ("axial", pooled.table[pooled.table.plane == "axial"]),
    ):
        score = metrics.weighted_score(*metrics.label_arrays(rows))["score"]
        assert document.row(name)[:2] == [str(len(rows)), str(int(rows[LABELS[PRESENT]].sum()))]
        assert document.row(name)[2].startswith(f"{score:.3f} ")
    assert document.row("coronal")[2:] == ["n/a", "n/a", "n/a", "0"]  # all with aneurysm
    fold = metrics.weighted_score(*metrics.label_arrays(pooled.table[pooled.table.fold == 2]))[
        "score"
    ]
    assert document.row("fold 2")[-3:] == [f"{fold:.3f}", "2", "2"]  # score, epochs chosen


def test_the_page_holds_all_it_needs_and_escapes_what_it_is_told(whole):
    page = whole[2]
    document = Document(page)
    policies = [
        attributes["content"]
        for tag, attributes in document.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in document.tags}
    for tag, attributes in document.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "srcset") or re.fullmatch(
                r"data:image/png;base64,[A-Za-z0-9+/=]+", value
            )
            assert name != "href" or value.startswith("#")
    anchors = {attributes["id"] for tag, attributes in document.tags if tag == "section"}
    assert {attributes["href"][1:] for tag, attributes in document.tags if tag == "a"} == anchors
    assert all(attributes["alt"] for tag, attributes in document.tags if tag == "img")
    assert "url(" not in page and "@import" not in page
    assert f"Aneurysm detection: {NASTY}" in document.text
    assert document.row("within <5 mm") == ["61 %"] and document.row("mm") == ["4.250"]


def test_each_picture_lies_beside_the_page_in_both_shapes(whole):
    config, _, _ = whole
    folder = EncoderFolder(config.model_dir, NASTY)
    names = {
        f"{name}{shape}.png"
        for name in ("roc", "groups", "calibration", "training")
        for shape in ("", "_narrow")
    }
    assert {path.name for path in folder.report.iterdir()} == names | {"report.html"}
    sizes = {}
    for name in names:
        content = (folder.report / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        sizes[name] = int.from_bytes(content[16:20], "big")  # width in pixels
    assert all(
        sizes[name] > 2 * sizes[name.replace(".png", "_narrow.png")]
        for name in sizes
        if "narrow" not in name
    )


def test_temperatures_are_fitted_on_all_and_rare_labels_keep_one(whole):
    config, _, page = whole
    saved = read_json(EncoderFolder(config.model_dir, NASTY).temperatures)
    pooled = read_evaluations(DataFolder(config.data_dir), config.model_dir, NASTY)["end_to_end"]
    labels, probabilities = pooled.arrays()
    expected = calibration.fit_temperatures(labels, calibration.logit(probabilities))
    assert saved == {
        "temperatures": dict(zip(LABELS, expected.tolist(), strict=True)),
        "folds": [0, 2],
        "n_series": 80,
    }
    assert saved["temperatures"][LABELS[0]] == 1
    assert f"not fitted: {LABELS[0]}." in Document(page).text
    assert sum(value != 1 for value in saved["temperatures"].values()) > 10


def test_calibration_after_is_crossfitted_by_fold(whole):
    config, _, page = whole
    pooled = read_evaluations(DataFolder(config.data_dir), config.model_dir, NASTY)["end_to_end"]
    labels, probabilities = pooled.arrays()
    logits = calibration.logit(probabilities)
    cooled = calibration.crossfit(labels, logits, pooled.table.fold.to_numpy())
    row = Document(page).row(LABELS[PRESENT], 1)
    losses = [
        f"{calibration.log_loss(labels[:, PRESENT], each[:, PRESENT]):.3f}"
        for each in (logits, cooled)
    ]
    errors = [
        f"{calibration.calibration_error(labels[:, PRESENT], calibration.sigmoid(each[:, PRESENT])):.3f}"
        for each in (logits, cooled)
    ]
    assert row[2:6] == [*losses, *errors]
    assert losses[0] != losses[1]


def test_with_one_fold_the_halves_are_crossfitted(quick):
    config, series = quick
    evaluate(config, series, 1)
    document = Document(report.main(config).read_text())
    assert "those of each half of the series are fitted on the other half" in document.text
    row = document.row(LABELS[PRESENT], 1)
    assert row[2] != row[3]


def test_nothing_evaluated_is_refused_in_one_sentence(made):
    config, _ = made
    evaluate_spots(config, 0)
    with pytest.raises(
        UserError,
        match=r"^[^.]*net_small holds no predictions of series: run eval_stage2\.py or eval_end_to_end\.py .* first$",
    ):
        report.main(config)
    folder = EncoderFolder(config.model_dir, config.encoder)
    assert not folder.report.exists() and not folder.temperatures.exists()


def test_spots_are_judged_by_the_labels_of_their_window(quick):
    config, _ = quick
    expected = pd.concat([evaluate_spots(config, fold) for fold in (0, 1)]).sort_values(
        ["SeriesInstanceUID", "slice"]
    )
    evaluate(config, quick[1], 0)
    spots = read_evaluations(DataFolder(config.data_dir), config.model_dir, config.encoder)[
        "stage1"
    ]
    found = spots.table.sort_values(["SeriesInstanceUID", "slice"])
    np.testing.assert_array_equal(found[["SeriesInstanceUID", "slice", *LABELS]], expected)
    assert spots.folds == [0, 1]


def test_folds_without_predictions_of_their_own_are_taken_from_those_of_all(quick):
    config, series = quick
    evaluate(config, series, 1, ("stage2",))
    evaluate(config, series, "all", ("stage2",))
    table = read_evaluations(DataFolder(config.data_dir), config.model_dir, config.encoder)[
        "stage2"
    ].table
    name = f"{LABELS[PRESENT]} predicted"
    for fold, source in ((0, "all"), (1, 1), (2, "all")):
        written = read_table(
            RunFolder(config.model_dir, config.encoder, source).predictions("stage2")
        ).set_index("SeriesInstanceUID")
        rows = table[table.fold == fold]
        assert len(rows) == SERIES // 3
        np.testing.assert_array_equal(
            rows[name], written.loc[rows.SeriesInstanceUID, LABELS[PRESENT]]
        )


def test_folds_that_those_of_all_do_not_hold_are_not_evaluated(quick):
    config, series = quick
    evaluate(config, series[series.fold != 1], "all", ("stage2",))
    pooled = read_evaluations(DataFolder(config.data_dir), config.model_dir, config.encoder)[
        "stage2"
    ]
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
    write_table(
        DataFolder(config.data_dir).folds(3),
        series.assign(fold=(series.fold + (series.index > 100)) % 3),
    )
    with pytest.raises(
        UserError,
        match=r"fold-0/predictions_stage2\.csv holds series 1\.\d+, which is not of fold 0.*evaluate again",
    ):
        report.main(config)


def test_series_that_could_not_be_read_are_left_out_and_counted(quick):
    config, series = quick
    evaluate(config, series[~series.SeriesInstanceUID.isin(["1.30", "1.60"])], 0)
    document = Document(report.main(config).read_text())
    assert "38 series of fold 0" in document.text
    assert "2 more could not be read and are left out" in document.text


def test_sections_without_content_are_left_out(quick):
    config, series = quick
    evaluate(config, series, 0)
    for stage in ("stage1", "stage2"):
        RunFolder(config.model_dir, config.encoder, 0).metrics(stage).unlink()
    page = report.main(config).read_text()
    assert 'id="training"' not in page and 'id="localisation"' not in page
    assert 'id="calibration"' in page


@pytest.mark.parametrize(
    ("folds", "text"),
    [
        ([3], "fold 3"),
        ([0, 1], "folds 0, 1"),
        ([1, 2, 3], "folds 1 to 3"),
        ([0, 1, 3], "folds 0, 1, 3"),
    ],
)
def test_folds_are_named(folds, text):
    assert report.folds_text(folds) == text


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (None, "n/a"),
        (0.12345, "0.123"),
        (1234, "1,234"),
        ("<b>", "&lt;b&gt;"),
        ((0.5, None), "0.500"),
        ((0.5, [0.4, 0.6]), '0.500<span class="ci">0.400–0.600</span>'),
    ],
)
def test_cells_are_shown(cell, shown):
    assert f"<td>{shown}</td>" in report_page.table(["a", "b"], [["name", cell]])
