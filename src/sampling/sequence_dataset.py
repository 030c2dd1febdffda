"""Samples of stage 2. A sample depends on (seed, epoch, index) only: not on the number of workers, not on the batch."""

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from src.artifacts.files import array_layout, read_slices
from src.artifacts.paths import ArtifactError, RunFolder
from src.labels import LABELS
from src.sampling.slices import STEPS, slice_positions, thin


class SequenceDataset(Dataset):
    """Series as sequences of slice features. Keyed by (epoch, row). `step` None: drawn, with the thinning (training)."""

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
        self.labels = series[list(LABELS)].to_numpy(np.float32)
        self.channels = self._check_features()

    def _check_features(self) -> int:
        widths = {}
        for uid in self.uids:
            length = len(self.geometry[uid]["positions"])
            for path in (self.run.logit(uid), self.run.feature(uid)):
                _, shape, _ = array_layout(path)
                if len(shape) != 3 or shape[:2] != (len(STEPS), length):
                    raise ArtifactError(
                        f"{path} holds {shape}, not {len(STEPS)} steps of {length} slices: run extract_features.py again"
                    )
            widths[shape[2]] = path
        if len(widths) > 1:
            raise ArtifactError(
                f"features of widths {sorted(widths)} lie in {self.run.features}: delete it and run extract_features.py again"
            )
        return next(iter(widths))

    def __len__(self) -> int:
        return len(self.uids)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        uid = self.uids[index]
        positions = self.geometry[uid]["positions"]
        generator = np.random.default_rng([self.seed, epoch, index]) if self.step is None else None
        step = self.step or int(generator.choice(STEPS))
        chosen = thin(len(positions), self.cut, generator)
        features, logits = (
            read_slices(path, np.array([STEPS.index(step)]))[0, chosen]
            for path in (self.run.feature(uid), self.run.logit(uid))
        )
        return {
            "index": index,
            "features": features,  # (T, C)
            "positions": slice_positions(positions, chosen),  # (T,) mm
            "highest": logits.max(axis=0).astype(np.float32),  # (14,) of stage 1, over the tokens
            "labels": self.labels[index],
        }


def pad_sequences(samples: list[dict]) -> dict[str, torch.Tensor]:
    """Collate sequences: pad to the longest with zeros and tell which tokens are present."""
    longest = max(len(sample["positions"]) for sample in samples)
    features = torch.zeros(len(samples), longest, samples[0]["features"].shape[-1])  # (B, T, C)
    positions = torch.zeros(len(samples), longest)  # (B, T)
    present = torch.zeros(len(samples), longest, dtype=torch.bool)  # (B, T)
    for row, sample in enumerate(samples):
        length = len(sample["positions"])
        features[row, :length] = torch.from_numpy(sample["features"])
        positions[row, :length] = torch.from_numpy(sample["positions"])
        present[row, :length] = True
    highest, labels = (
        torch.from_numpy(np.stack([sample[name] for sample in samples]))
        for name in ("highest", "labels")
    )  # (B, 14)
    index = torch.tensor([sample["index"] for sample in samples])
    return {
        "features": features,
        "positions": positions,
        "present": present,
        "highest": highest,
        "labels": labels,
        "index": index,
    }
