"""make all, its parts and the demo: what they run, without running it; tools/status.py."""

import json
import os
import re
import subprocess

import pandas as pd
import pytest

from src.artifacts.paths import DataFolder, RunFolder
from tests.conftest import ROOT
from tests.test_readme import flags_of
from tools import status

PREPARE = ["preprocess_data", "create_folds"]
OF_FOLD = "tools/status train_stage1 eval_stage1 extract_features train_stage2 eval_stage2".split()


def printed(*words) -> str:
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    command = ["make", "--dry-run", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def scripts(*words) -> list[str]:
    return re.findall(r"bin/python ([\w/]+)\.py", printed(*words))


def test_all_runs_the_stages_in_order_and_knows_their_flags():
    text = printed("all", "DATA=a b", "FOLDS=0 1", "DEAL=2", 'STAGE1=--crop-size "8"')
    found = re.findall(r"bin/python ([\w/]+\.py)(.*)", text)
    pooled = ["eval_stage2", "eval_end_to_end", "tools/measure_findings", "tools/report"]
    expected = [*PREPARE, *OF_FOLD, *OF_FOLD, *pooled, "tools/status"]
    assert [script.removesuffix(".py") for script, _ in found] == expected
    for script, flags in found:
        assert '--data-dir "a b"' in flags
        assert set(re.findall(r"--[a-z][\w-]+", flags)) <= flags_of(script)
    assert "for fold in all;" in text


def test_some_folds_are_not_pooled():
    text = printed("pool", "FOLDS=3 4")
    assert "for fold in 3 4;" in text and "--fold all" not in text


def test_the_demo_is_a_part_of_all_folds_and_deletes_nothing(tmp_path):
    demo, folds = (printed(target, f"DEMO={tmp_path}/demo") for target in ("demo", "folds"))
    assert not re.search(r"\brm\b", demo + folds)
    of_fold = [line for line in demo.splitlines() if "--fold 0" in line]
    assert len(of_fold) >= 5 and all(line in folds for line in of_fold if "for fold" not in line)
    assert scripts("folds")[-1] == "tools/mine_hard_negatives"


@pytest.mark.parametrize("newer", ["scores_stage2.json", "best_stage1.pth"])
def test_a_fold_whose_scores_are_newer_than_its_weights_is_skipped(tmp_path, newer):
    folder = tmp_path / "a_b" / "fold-4"
    folder.mkdir(parents=True)
    for name in ("best_stage1.pth", "weights_inference.pth", "scores_stage2.json"):
        (folder / name).touch()
        os.utime(folder / name, (9, 9 if name == newer else 5))
    done = newer == "scores_stage2.json"
    text = printed("fold", "FOLD=4", f"MODEL={tmp_path}", "ENCODER=a/b")
    assert ("fold 4 is done: delete " in text.splitlines()[-1]) == done
    assert ("train_stage1.py" in text) != done


def test_the_status_says_what_is_done_of_each_fold(tmp_path, capsys):
    config = status.Config(tmp_path, tmp_path, "net")
    assert status.main(config) == [status.COLUMNS]  # nothing yet
    data, run = DataFolder(tmp_path), RunFolder(tmp_path, "net", 1)
    for path, count in ((data.train_meta, 3), (data.failed_series, 1), (data.folds(2), 3)):
        pd.DataFrame({"SeriesInstanceUID": range(count)}).to_csv(path, index=False)
    run.logits.mkdir(parents=True)
    for stage, done in (("stage1", 2), ("stage2", 0)):
        run.settings(stage).write_text('{"epochs": 2}')
        run.metrics(stage).write_text("".join(f'{{"epoch": {k + 1}}}\n' for k in range(done)))
        run.best(stage).touch()
        os.utime(run.best(stage), (5, 5))
    run.logit("1.2").touch()
    for evaluation, score in (("stage1", 0.75), ("stage2", None), ("end_to_end", 0.5)):
        run.scores(evaluation).write_text(json.dumps({"score": score}))
    os.utime(run.scores("end_to_end"), (4, 4))
    _, first, second = status.main(config)
    assert first == ("fold-0", *"------")
    assert second == ("fold-1", "2/2", "0.750", "1/3", "0/2", "n/a", "old")
    assert "1 preprocess: 3 series, 1 failed" in capsys.readouterr().out
