import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import eval_stage2
import extract_features
import train_stage2
from src.artifacts.checkpoints import read_checkpoint, write_checkpoint
from src.artifacts.files import read_array, read_pickle
from src.artifacts.paths import ArtifactError, RunFolder
from src.artifacts.tables import read_fold
from src.labels import LABELS
from src.networks.sequence_transformer import SequenceTransformer, build_transformer
from src.sampling.loader import make_loader
from src.sampling.sequence_dataset import SequenceDataset, pad_sequences
from src.sampling.slices import thin
from tests.networks import ENCODER, write_both, write_stage1

TRIAL = {"width": 16, "cut": 5, "epochs": 2, "batch_size": 4, "lr": 1e-2, "ema_decay": 0.5}


@pytest.fixture(scope="module")
def trained_to_choose(trained):
    """The same with all weights of stage 1 to choose from, in another folder."""
    model_dir = trained.root.parents[1].with_name("chosen")
    shutil.copytree(trained.root.parents[1], model_dir)
    run = RunFolder(model_dir, ENCODER, 0)
    run.last("stage2").unlink()
    data_dir = Path(read_checkpoint(trained.last("stage2"), ())["settings"]["data_dir"])
    train_stage2.main(train_stage2.Config(data_dir, model_dir, 0, "cpu", ENCODER, **TRIAL))
    return run


def logits_at(tiny, run, model, held_out, step) -> tuple[np.ndarray, np.ndarray]:
    """The transformer's logits of the held-out series, and stage 1's highest over their tokens."""
    dataset = SequenceDataset(run, held_out, read_pickle(tiny.geometry), 5, 0, step=step)
    (batch,) = make_loader(dataset, 64, 0, collate=pad_sequences)
    with torch.inference_mode():
        logits = model(batch["features"], batch["positions"], batch["present"])
    highest = [
        read_array(run.logit(row.SeriesInstanceUID))[step - 1, thin(row.length, 5)].max(axis=0)
        for row in held_out.itertuples()
    ]
    return logits.numpy(), np.stack(highest).astype(np.float32)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Two epochs of stage 2 on the features of a random stage 1."""
    model_dir = tmp_path_factory.mktemp("model")
    run = write_stage1(tiny, model_dir)
    extract_features.main(extract_features.Config(tiny.root, model_dir, 0, "cpu", ENCODER))
    trial = TRIAL | {"stage1_weight": 0.3}
    train_stage2.main(train_stage2.Config(tiny.root, model_dir, 0, "cpu", ENCODER, **trial))
    return run


def evaluate(tiny, run, **options):
    model_dir = run.root.parents[1]
    config = eval_stage2.Config(tiny.root, model_dir, 0, "cpu", ENCODER, **options)
    return eval_stage2.main(config), pd.read_csv(run.predictions("stage2"))


def test_the_last_epoch_is_its_moving_average_at_step_1(tiny, trained, capsys):
    _, predictions = evaluate(tiny, trained, select="last")
    assert "not chosen" in capsys.readouterr().out
    state = read_checkpoint(trained.last("stage2"), ())
    average = state["learner"]["average"]["module"]
    model = build_transformer(state["settings"], average, torch.device("cpu"))
    _, held_out = read_fold(tiny, 0)
    logits, highest = logits_at(tiny, trained, model, held_out, step=1)
    expected = torch.from_numpy(0.7 * logits + 0.3 * highest).sigmoid()
    np.testing.assert_allclose(predictions[list(LABELS)], expected, atol=1e-6)


def test_every_pair_of_the_table_is_what_its_numbers_give(tiny, trained_to_choose):
    """Against logits and maxima by hand, and scikit-learn's AUC."""
    checkpoint = read_checkpoint(trained_to_choose.best("stage2"), ())
    settings = checkpoint["settings"]
    model = build_transformer(settings, checkpoint["weights"], torch.device("cpu"))
    _, held_out = read_fold(tiny, 0)
    truth = held_out[list(LABELS)].to_numpy()
    both = [k for k in range(13) if 0 < truth[:, k].sum() < len(truth)]
    scores = {}
    for step in (1, 2):
        logits, highest = logits_at(tiny, trained_to_choose, model, held_out, step)
        for weight in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
            mixed = (1 - weight) * logits + weight * highest
            areas = [roc_auc_score(truth[:, k], mixed[:, k]) for k in both]
            present = roc_auc_score(truth[:, 13], mixed[:, 13])
            scores[step, weight] = 0.5 * present + 0.5 * np.mean(areas)
    assert len(settings["choices"]) == 12
    for step, weight, score in settings["choices"]:
        assert score == pytest.approx(scores[step, weight], abs=0.02)  # ties may fall apart
    table = {(step, weight): score for step, weight, score in settings["choices"]}
    chosen = settings["step"], settings["stage1_weight"]
    assert table[chosen] == max(table.values()) == checkpoint["score"]


def test_the_transformer_runs_once_a_step_and_batch(tiny, trained_to_choose, monkeypatch):
    calls = Counter()
    real = SequenceTransformer.forward

    def counted(model, *batch):
        calls[model.training] += 1
        return real(model, *batch)

    monkeypatch.setattr(SequenceTransformer, "forward", counted)
    config = train_stage2.Config(
        tiny.root, trained_to_choose.root.parents[1], 0, "cpu", ENCODER, **TRIAL, resume=True
    )
    config.epochs += 1
    train_stage2.main(config)
    batches = -(-len(read_fold(tiny, 0)[1]) // config.batch_size)
    assert calls[False] == 2 * batches


def test_a_fixed_weight_is_the_only_one(trained):
    settings = read_checkpoint(trained.best("stage2"), ())["settings"]
    assert [row[:2] for row in settings["choices"]] == [[1, 0.3], [2, 0.3]]
    assert settings["stage1_weight"] == 0.3


def test_a_checkpoint_with_the_old_name_of_the_weight_is_judged_as_before(tiny, trained):
    _, before = evaluate(tiny, trained)
    whole = trained.best("stage2").read_bytes()
    checkpoint = read_checkpoint(trained.best("stage2"), ())
    settings = checkpoint["settings"]
    settings["stage1_share"] = settings.pop("stage1_weight")
    del settings["choices"]
    write_checkpoint(trained.best("stage2"), checkpoint)
    try:
        scores, after = evaluate(tiny, trained)
    finally:
        trained.best("stage2").write_bytes(whole)
    pd.testing.assert_frame_equal(before, after)
    assert scores["chosen"]["0"]["stage1_weight"] == 0.3


def test_the_best_epoch_says_that_it_was_chosen(tiny, trained, capsys):
    scores, predictions = evaluate(tiny, trained)
    assert "chosen on the held-out series" in capsys.readouterr().out
    assert scores["n_series"] == len(predictions)


def test_features_of_another_width_are_refused_with_both(tiny, trained, tmp_path):
    run = write_both(tiny, tmp_path)
    extract_features.main(extract_features.Config(tiny.root, tmp_path, 0, "cpu", ENCODER))
    checkpoint = read_checkpoint(run.best("stage2"), ())
    width = checkpoint["settings"]["channels"]
    checkpoint["settings"]["channels"] = 99
    write_checkpoint(run.best("stage2"), checkpoint)
    with pytest.raises(ArtifactError, match=rf"{width} wide.* reads 99"):
        evaluate(tiny, run)
