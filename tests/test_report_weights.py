"""tools/report.py refuses predictions of other weights; the eval scripts say which made theirs."""

import shutil

import pandas as pd
import pytest

from src.artifacts.files import read_json, write_json
from src.artifacts.paths import ArtifactError, DataFolder, EncoderFolder, RunFolder
from src.artifacts.provenance import weights_of, write_predictions
from tests.evaluations import evaluate, evaluate_spots, make_tables
from tools import report

NAMES = ("best_stage1.pth", "best_stage2.pth", "last_stage2.pth", "weights_inference.pth")
EVALUATIONS = ("stage1", "stage2", "end_to_end")


def mark(config, folds, name=None) -> None:
    """Say of the predictions of a fold, or of --fold all, that the weights there now made them."""
    of_all = RunFolder(config.model_dir, config.encoder, folds[0] if name is None else name)
    for evaluation in EVALUATIONS:
        made = {}
        for fold in folds:
            run = RunFolder(config.model_dir, config.encoder, fold)
            made[fold] = weights_of(run, evaluation)
        path = of_all.predictions(evaluation)
        if path.exists():
            write_predictions(path, pd.read_csv(path, dtype={"SeriesInstanceUID": str}), made)


@pytest.fixture
def evaluated(tmp_path):
    """(settings, its series): folds 0 and 1, evaluated by made-up weights that are there."""
    config = report.Config(tmp_path / "data", tmp_path / "model", "net", 30)
    series = make_tables(DataFolder(config.data_dir))
    for fold in (0, 1):
        evaluate(config, series, fold)
        evaluate_spots(config, fold)
        run = RunFolder(config.model_dir, config.encoder, fold)
        for name in NAMES:
            (run.root / name).write_text(f"{name} of fold {fold}")
        mark(config, [fold])
    return config, series


def unchecked(config) -> str:
    """What the report, which is not refused, says of predictions whose weights are unknown."""
    return report.read_checked(config, DataFolder(config.data_dir))[2]


def refusal(config) -> str:
    with pytest.raises(ArtifactError) as refused:
        report.main(config)
    folder = EncoderFolder(config.model_dir, config.encoder)
    assert not folder.report.exists() and not folder.calibration.exists()
    return str(refused.value)


def test_predictions_of_the_weights_in_the_folders_are_shown_without_a_word(evaluated, capsys):
    config, _ = evaluated
    assert unchecked(config) == "" and "be checked" not in capsys.readouterr().out


def test_after_a_new_training_all_that_is_to_run_is_named(evaluated):
    config, _ = evaluated
    run = RunFolder(config.model_dir, config.encoder, 1)
    run.best("stage1").write_text("trained again")  # train_stage1.py deletes the joined weights
    run.inference.unlink()
    said = refusal(config)
    assert f"{run.predictions('stage1')} was predicted by other weights than" in said
    steps = "extract_features.py train_stage2.py eval_stage1.py eval_stage2.py eval_end_to_end.py"
    commands = [f"{script} --fold 1" for script in steps.split()]
    assert said.endswith(f": run {', '.join(commands[:-1])} and {commands[-1]} again")
    run.inference.write_text("trained again, too")
    mark(config, [1])
    assert unchecked(config) == ""


@pytest.mark.parametrize(
    ("name", "scripts"),
    [
        ("best_stage1.pth", "eval_stage1.py --fold 0 and eval_stage2.py --fold 0"),
        ("best_stage2.pth", "eval_stage2.py --fold 0"),
        ("weights_inference.pth", "eval_end_to_end.py --fold 0"),
    ],
)
def test_each_file_of_weights_is_that_of_its_evaluations(evaluated, name, scripts):
    config, _ = evaluated
    weights = RunFolder(config.model_dir, config.encoder, 0).root / name
    weights.write_text("others")
    assert refusal(config).endswith(f"other weights than {weights}: run {scripts} again")


def test_predictions_of_all_folds_are_compared_fold_by_fold(evaluated):
    config, series = evaluated
    evaluate(config, series[series.fold != 2], "all", ("stage2",))
    mark(config, [0, 1], "all")
    RunFolder(config.model_dir, config.encoder, 1).best("stage2").write_text("others")
    said = refusal(config)
    assert "fold-all/predictions_stage2.csv" in said and "eval_stage2.py --fold all again" in said


def test_findings_are_compared_too(evaluated):
    config, series = evaluated
    run = RunFolder(config.model_dir, config.encoder, 0)
    held_out = series.loc[series.fold == 0, ["SeriesInstanceUID"]].assign(probability=0.5, mm=20.0)
    other = {0: {"weights_inference.pth": "of another network"}}
    write_predictions(run.findings, held_out, other)
    assert refusal(config).endswith("run tools/measure_findings.py --fold 0 again")


def test_what_cannot_be_checked_is_said_in_one_line(evaluated, capsys):
    config, series = evaluated
    evaluate(config, series, 2, ("stage2",))  # of an earlier version, which left no mark
    first, second = (RunFolder(config.model_dir, config.encoder, fold) for fold in (0, 1))
    for name in NAMES:  # they are on another disk
        (first.root / name).unlink()
    second.best("stage1").unlink()  # the joined weights are enough to predict
    line = unchecked(config)
    said = [each for each in capsys.readouterr().out.splitlines() if "be checked" in each]
    assert said == [line] and "predictions_end_to_end.csv, predictions_stage1.csv" in line


def test_a_mark_leads_to_no_file_elsewhere(evaluated):
    config, _ = evaluated
    path = RunFolder(config.model_dir, config.encoder, 0).predictions("stage2")
    marks = path.with_suffix(".weights.json")
    assert set(read_json(marks)["weights"]["0"]) == {"best_stage1.pth", "best_stage2.pth"}
    write_json(marks, {"weights": {"0": {"../../secret": "x"}}})
    assert "names no weights of this project" in refusal(config)


def test_new_predictions_do_not_keep_an_old_mark(evaluated):
    config, _ = evaluated
    path = RunFolder(config.model_dir, config.encoder, 0).predictions("stage2")
    shutil.copy(path, path.with_name("copy.csv"))
    write_predictions(path, pd.read_csv(path), None)
    assert not path.with_suffix(".weights.json").exists()
