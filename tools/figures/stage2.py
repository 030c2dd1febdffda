"""The figure of stage 2: the features of a series along its slices, stage 1's probabilities, and the 14 probabilities of the series."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LinearSegmentedColormap

from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.files import read_array, read_pickle
from src.artifacts.paths import RunFolder
from src.inference.probabilities import predict_series
from src.labels import LABELS, LOCATIONS, PRESENT
from src.networks.sequence_transformer import build_transformer
from src.sampling.sequence_dataset import SequenceDataset, pad_sequences
from src.sampling.slices import STEPS, thin
from src.sampling.spot_dataset import SpotTables
from tools.figures.canvas import (
    INK,
    LIGHT,
    OTHER,
    SMALL,
    SOFT_TRUE,
    TRUE,
    Sheet,
    fonts,
    probability_bars,
    short_name,
)

SHOWN = 2.5  # standard deviations of a channel at which its colours end
FLAT = 1e-6  # standard deviation of a channel that says nothing
SHARPNESS = 2.0  # a standard deviation higher counts e^2 times as much for where a channel peaks
CHANGE = LinearSegmentedColormap.from_list("change", ["#00395A", OTHER, "white", TRUE, "#6E2F00"])
LEFT, WIDE = 0.62, 4.0  # inches, of the slice axis


@dataclass
class Sequence:
    """A series as stage 2 reads it, and what it makes of it."""

    slices: np.ndarray  # (T,) that became tokens
    features: np.ndarray  # (T, C) float32
    stage1: np.ndarray  # (T, 14) probabilities of the slices
    aneurysms: np.ndarray  # slices at which a localizer points
    probabilities: np.ndarray  # (14,) of the series
    truth: np.ndarray  # (14,) 0 or 1
    step: int  # slices between a slice and its neighbours
    layers: int  # of the transformer
    share: float  # weight of stage 1's highest logits
    series: pd.Series  # its row of train_meta.csv


def look(run: RunFolder, tables: SpotTables, uid: str, device: torch.device) -> Sequence:
    checkpoint = read_checkpoint(run.best("stage2"), ("weights", "settings"))
    settings = checkpoint["settings"]
    series = tables.meta.loc[[uid]]
    dataset = SequenceDataset(
        run,
        series,
        read_pickle(tables.data.geometry),
        settings["cut"],
        seed=0,
        step=settings["step"],
    )
    sample = dataset[0, 0]
    with torch.inference_mode():
        model = build_transformer(settings, checkpoint["weights"], device)
        probabilities = (
            predict_series(model, pad_sequences([sample]), settings["stage1_share"], device)[0]
            .cpu()
            .numpy()
        )
    slices = thin(int(series.length.iloc[0]), settings["cut"])
    logits = read_array(run.logit(uid))[STEPS.index(settings["step"]), slices].astype(
        np.float32
    )  # (T, 14)
    return Sequence(
        slices=slices,
        features=sample["features"].astype(np.float32),
        stage1=1 / (1 + np.exp(-logits)),
        aneurysms=np.flatnonzero(tables.labels[uid].any(axis=1)),
        probabilities=probabilities,
        truth=sample["labels"],
        step=settings["step"],
        layers=settings["layers"],
        share=settings["stage1_share"],
        series=series.iloc[0],
    )


def ordered_channels(features: np.ndarray) -> np.ndarray:
    """(T, C) -> (T, C'): the channels that change along the series, each in standard deviations from its mean, by the slice where they peak.

    That slice is a mean of all, weighted by the exponential of the channel, so that one wide peak counts as its middle.
    """
    spread = features.std(axis=0)
    moving = spread > FLAT
    scaled = (features[:, moving] - features[:, moving].mean(axis=0)) / spread[moving]  # (T, C')
    weights = np.exp(SHARPNESS * scaled)
    peaks = np.arange(len(scaled)) @ weights / weights.sum(axis=0)  # (C',)
    return scaled[:, np.argsort(peaks, kind="stable")]


def draw(sequence: Sequence, path: Path) -> None:
    """Left: features above, stage 1's probabilities below, on one slice axis. Right: transformer and the series' probabilities."""
    with fonts():
        sheet = Sheet(5.8)
        draw_features(sheet, sequence)
        draw_stage1(sheet, sequence)
        sheet.arrow((4.67, 3.77), (4.93, 3.77))
        sheet.box(
            4.97,
            2.65,
            1.16,
            2.6,
            "transformer",
            f"{len(sequence.slices)} slices in,\n{sequence.layers} layers of\nattention\nby distance\nin mm",
        )
        sheet.arrow((6.17, 3.77), (6.43, 3.77))
        if sequence.share:
            sheet.arrow((4.67, 1.33), (4.93, 1.33))
            sheet.box(
                4.97,
                0.88,
                1.16,
                0.9,
                "highest",
                f"over the slices,\nwith weight {sequence.share:g}",
            )
            sheet.arrow((6.17, 1.33), (6.43, 1.33))
        sheet.title(6.5, 5.5, "series probabilities", "● true labels", TRUE)
        probability_bars(sheet.panel(8.2, 0.5, 1.3, 4.75), sequence.probabilities, sequence.truth)
        sheet.save(path)


def draw_features(sheet: Sheet, sequence: Sequence) -> None:
    """The matrix of features, a column a slice, and what its colours mean."""
    sheet.title(LEFT, 5.5, "slice features")
    image = ordered_channels(sequence.features).T  # (C', T)
    axes = sheet.panel(LEFT, 2.65, WIDE, 2.6)
    ends = (*ends_of(sequence.slices), len(image), 0)
    axes.imshow(
        image,
        cmap=CHANGE,
        vmin=-SHOWN,
        vmax=SHOWN,
        aspect="auto",
        interpolation="nearest",
        extent=ends,
    )
    axes.plot(
        sequence.aneurysms,
        np.full(len(sequence.aneurysms), -0.025 * len(image)),
        "v",
        color=TRUE,
        markersize=7,
        clip_on=False,
    )
    axes.set(xticks=[], yticks=[], ylim=(len(image), 0))
    axes.spines[:].set_visible(False)
    sheet.text(
        LEFT - 0.14,
        3.95,
        f"{len(image)} channels, by where they peak",
        SMALL,
        rotation=90,
        ha="center",
        va="center",
    )

    scale = sheet.panel(LEFT + WIDE - 1.15, 5.52, 0.7, 0.12)
    scale.imshow(np.linspace(0, 1, 128)[None], cmap=CHANGE, aspect="auto")
    scale.axis("off")
    sheet.text(LEFT + WIDE - 1.22, 5.58, "low", SMALL, ha="right", va="center_baseline")
    sheet.text(LEFT + WIDE - 0.38, 5.58, "high", SMALL, va="center_baseline")


def draw_stage1(sheet: Sheet, sequence: Sequence) -> None:
    """Slice by slice: Aneurysm Present and the true locations; the slices with an aneurysm shaded."""
    sheet.title(LEFT, 2.28, "stage 1 on each slice")
    axes = sheet.panel(LEFT, 0.5, WIDE, 1.65)
    for number, slice_ in enumerate(sequence.aneurysms):
        axes.axvspan(
            slice_ - 0.5,
            slice_ + 0.5,
            color=SOFT_TRUE,
            linewidth=0,
            label="_" * number + "true slice",
        )
    for location, style in zip(
        np.flatnonzero(sequence.truth[:PRESENT]), ("-", "--", ":") * len(LOCATIONS), strict=False
    ):
        axes.plot(
            sequence.slices,
            sequence.stage1[:, location],
            style,
            color=TRUE,
            linewidth=2,
            label=short_name(LABELS[location]),
        )
    axes.plot(
        sequence.slices,
        sequence.stage1[:, PRESENT],
        color=INK,
        linewidth=2,
        label=short_name(LABELS[PRESENT]),
    )
    axes.legend(loc="best", frameon=False, fontsize=SMALL, handlelength=1.5, alignment="left")
    axes.set(xlim=ends_of(sequence.slices), ylim=(0, 1.02), yticks=[0, 0.5, 1], xlabel="slice")
    axes.set_ylabel("probability", fontsize=SMALL)
    axes.tick_params(labelsize=SMALL, color=LIGHT)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LIGHT)


def ends_of(slices: np.ndarray) -> tuple[float, float]:
    """Where the axis of these evenly spaced slices begins and ends."""
    half = np.diff(slices[:2]).sum() / 2
    return slices[0] - half, slices[-1] + half
