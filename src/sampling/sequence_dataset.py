"""Samples of stage 2. A sample depends on (seed, epoch, index) only, not on workers or batches."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from src.artifacts.files import array_layout, read_slices
from src.artifacts.paths import ArtifactError, RunFolder
from src.artifacts.plausible import require_finite
from src.labels import LABELS
from src.sampling.slices import STEPS, slice_positions, thin


@cache
def require_finite_file(path: Path) -> None:
    """Raise ArtifactError if a file of features or logits holds inf or NaN.

    Asked once a process: each file belongs to several data sets.
    """
    require_finite(read_slices(path, np.arange(len(STEPS))), path)


class SequenceDataset(Dataset):
    """Series as sequences of slice features, keyed by (epoch, row).

    step: None in training, where step and subsampling are drawn.
    """

    def __init__(
        self,
        run: RunFolder,
        series: pd.DataFrame,
        geometry: dict[str, dict],
        cut: int,
        seed: int,
        step: int | None,
    ):
        self.run, self.geometry, self.cut, self.seed, self.step = run, geometry, cut, seed, step
        self.uids = series.SeriesInstanceUID.tolist()
        self.labels = series[list(LABELS)].to_numpy(np.float32, copy=True)
        self.channels = self._check_features()

    def _check_features(self) -> int:
        """Return C.

        Raise ArtifactError if a file has another length than its series or another width, or
        holds inf or NaN.
        """
        widths = set()
        for uid in self.uids:
            if uid not in self.geometry:
                raise ArtifactError(
                    f"series {uid} is not in slice_geometry_dict.pkl: run preprocess_data.py again"
                )
            length = len(self.geometry[uid]["positions"])
            for path in (self.run.logit(uid), self.run.feature(uid)):
                _, shape, _ = array_layout(path)
                if len(shape) != 3 or shape[:2] != (len(STEPS), length):
                    raise ArtifactError(
                        f"{path} holds {shape}, not {len(STEPS)} steps of {length} slices: "
                        "run extract_features.py again"
                    )
                require_finite_file(path)
            widths.add(shape[2])
        if len(widths) > 1:
            raise ArtifactError(
                f"{self.run.features} holds features of widths {sorted(widths)}: "
                "delete it and run extract_features.py again"
            )
        return widths.pop()

    def uid_of(self, row: int) -> str:
        return self.uids[row]

    def __len__(self) -> int:
        return len(self.uids)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        uid = self.uids[index]
        positions = self.geometry[uid]["positions"]
        generator = np.random.default_rng([self.seed, epoch, index]) if self.step is None else None
        step = self.step or int(generator.choice(STEPS))
        chosen = thin(len(positions), self.cut, generator)
        stored = np.array([STEPS.index(step)])
        features = read_slices(self.run.feature(uid), stored)[0, chosen]
        logits = read_slices(self.run.logit(uid), stored)[0, chosen]
        return {
            "index": index,
            "features": features,  # (T, C) float16
            "positions": slice_positions(positions, chosen),  # (T,) mm
            "present": np.ones(len(chosen), bool),  # (T,)
            "highest": logits.max(axis=0).astype(np.float32),  # (14,) of stage 1, over the tokens
            "labels": self.labels[index],  # (14,)
        }


def pad_sequences(samples: list[dict]) -> dict[str, torch.Tensor]:
    """Collate sequences: pad with zeros to the longest; `present` (B, T) is False at padding."""
    batch = {}
    for name in samples[0]:
        values = [torch.as_tensor(sample[name]) for sample in samples]
        padded = name in ("features", "positions", "present")  # (B, T, ...)
        batch[name] = pad_sequence(values, batch_first=True) if padded else torch.stack(values)
    return batch | {"features": batch["features"].float()}
