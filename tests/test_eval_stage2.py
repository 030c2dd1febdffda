import numpy as np
import pandas as pd
import pytest
import torch

import eval_stage2
import extract_features
import train_stage2
from src.artifacts.checkpoints import read_checkpoint, write_checkpoint
from src.artifacts.files import read_array, read_pickle
from src.artifacts.paths import ArtifactError
from src.artifacts.tables import read_fold
from src.labels import LABELS
from src.networks.sequence_transformer import build_transformer
from src.sampling.loader import make_loader
from src.sampling.sequence_dataset import SequenceDataset, pad_sequences
from src.sampling.slices import thin
from tests.networks import ENCODER, write_both, write_stage1


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Two epochs of stage 2 on the features of a random stage 1."""
    model_dir = tmp_path_factory.mktemp("model")
    run = write_stage1(tiny, model_dir)
    extract_features.main(extract_features.Config(tiny.root, model_dir, 0, "cpu", ENCODER))
    trial = {"width": 16, "cut": 5, "stage1_share": 0.3}
    trial |= {"epochs": 2, "batch_size": 4, "lr": 1e-2, "ema_decay": 0.5}
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
    dataset = SequenceDataset(trained, held_out, read_pickle(tiny.geometry), 5, 0, step=1)
    (batch,) = make_loader(dataset, 64, 0, collate=pad_sequences)
    with torch.inference_mode():
        logits = model(batch["features"], batch["positions"], batch["present"])
    highest = [
        read_array(trained.logit(row.SeriesInstanceUID))[0, thin(row.length, 5)].max(axis=0)
        for row in held_out.itertuples()
    ]
    expected = (0.7 * logits + 0.3 * torch.from_numpy(np.stack(highest)).float()).sigmoid()
    np.testing.assert_allclose(predictions[list(LABELS)], expected, atol=1e-6)


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
