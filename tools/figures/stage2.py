"""The figure of stage 2: features and stage 1's probabilities along a series, and its result."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from scipy.special import expit

from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.files import read_array
from src.artifacts.paths import RunFolder
from src.artifacts.plausible import read_geometry
from src.inference.probabilities import predict_series
from src.labels import LABELS, PRESENT
from src.networks.sequence_transformer import build_transformer
from src.sampling.sequence_dataset import SequenceDataset, pad_sequences
from src.sampling.slices import STEPS, thin
from src.sampling.spot_dataset import SpotTables
from tools.figures import canvas
from tools.figures.canvas import INK, LIGHT, OTHER, SMALL, SOFT_TRUE, TRUE

SHOWN = 2.5  # standard deviations of a channel at which its colours end
FLAT = 1e-6  # standard deviation of a channel that says nothing
SHARPNESS = 2.0  # a standard deviation higher counts e^2 times as much for where a channel peaks
CHANGE = LinearSegmentedColormap.from_list("change", ["#00395A", OTHER, "white", TRUE, "#6E2F00"])
LAYOUT = [["features", "transformer"], ["stage1", "highest"]]


@dataclass
class Sequence:
    """A series as stage 2 reads it, and its prediction."""

    slices: np.ndarray  # (T,) that became tokens
    features: np.ndarray  # (T, C) float32
    stage1: np.ndarray  # (T, 14) probabilities of the slices
    aneurysms: np.ndarray  # slices at which a localizer points
    probabilities: np.ndarray  # (14,) of the series
    truth: np.ndarray  # (14,) 0 or 1
    layers: int  # of the transformer
    weight: float  # of stage 1's highest logits
    series: pd.Series  # its row of train_meta.csv


def look(run: RunFolder, tables: SpotTables, uid: str, device: torch.device) -> Sequence:
    """Return a held-out series as the network of its fold reads and judges it."""
    checkpoint = read_checkpoint(run.best("stage2"), ("weights", "settings"))
    settings = checkpoint["settings"]
    cut, step, weight = (settings[name] for name in ("cut", "step", "stage1_weight"))
    series = tables.meta.loc[[uid]]
    geometry = read_geometry(tables.data)
    sample = SequenceDataset(run, series, geometry, cut, seed=0, step=step)[0, 0]
    with torch.inference_mode():
        model = build_transformer(settings, checkpoint["weights"], device)
        probabilities = predict_series(model, pad_sequences([sample]), weight, device)[0]  # (14,)
    slices = thin(int(series.length.iloc[0]), cut)
    logits = read_array(run.logit(uid))[STEPS.index(step), slices]  # (T, 14)
    return Sequence(
        slices=slices,
        features=sample["features"].astype(np.float32),
        stage1=expit(logits.astype(np.float32)),
        aneurysms=np.flatnonzero((tables.labels[uid] == 1).any(axis=1)),
        probabilities=probabilities.cpu().numpy(),
        truth=sample["labels"],
        layers=settings["layers"],
        weight=weight,
        series=series.iloc[0],
    )


def ordered_channels(features: np.ndarray) -> np.ndarray:
    """Return the channels that change along the series, ordered by the slice where they peak.

    (T, C) -> (T, C'), each channel in standard deviations from its mean. Its peak is the mean
    of all slices weighted by the exponential of the channel: one wide peak counts as its middle.
    """
    spread = features.std(axis=0)
    moving = spread > FLAT
    scaled = (features[:, moving] - features[:, moving].mean(axis=0)) / spread[moving]  # (T, C')
    weights = np.exp(SHARPNESS * scaled)
    peaks = np.arange(len(scaled)) @ weights / weights.sum(axis=0)  # (C',)
    return scaled[:, np.argsort(peaks, kind="stable")]


def draw(sequence: Sequence, path: Path) -> None:
    """Draw features above stage 1's probabilities; what reads them; the series' probabilities."""
    with canvas.style():
        figure = canvas.new_figure(6.2)
        left, right = figure.subfigures(1, 2, width_ratios=[6, 4])
        panels = left.subplot_mosaic(LAYOUT, width_ratios=[3, 1], height_ratios=[3, 2])
        draw_features(panels["features"], sequence)
        draw_stage1(panels["stage1"], sequence)
        facts = f"{len(sequence.slices)} slices in,\n{sequence.layers} layers of\nattention\n"
        draw_step(panels, "features", "transformer", facts + "by distance\nin mm")
        panels["highest"].axis("off")
        if sequence.weight:
            facts = f"over the slices,\nwith weight {sequence.weight:g}"
            draw_step(panels, "stage1", "highest", facts)
        truth = sequence.truth
        canvas.probability_bars(right, "series probabilities", sequence.probabilities, truth)
        canvas.save(figure, path)


def draw_step(panels: dict[str, Axes], source: str, name: str, facts: str) -> None:
    """Draw a box in the panel `name`, an arrow from the source to it and one out of it."""
    axes = panels[name]
    axes.axis("off")
    step = canvas.box(axes, 0.6, 0.5, name, facts)
    canvas.arrow(axes, (1, 0.5, panels[source]), (0, 0.5, step))
    canvas.arrow(axes, (1, 0.5, step), (1.34, 0.5, axes))


def draw_features(axes: Axes, sequence: Sequence) -> None:
    """Draw the features, a column a slice and a row a channel, and what the colours mean."""
    canvas.title(axes, "slice features")
    channels = ordered_channels(sequence.features).T  # (C', T)
    limits = (*ends_of(sequence.slices), len(channels), 0)
    look = {"cmap": CHANGE, "vmin": -SHOWN, "vmax": SHOWN, "interpolation": "nearest"}
    image = axes.imshow(channels, aspect="auto", extent=limits, **look)
    above = np.full(len(sequence.aneurysms), 1.03)
    place = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    axes.plot(sequence.aneurysms, above, "v", color=TRUE, markersize=7, **place)
    axes.set(xticks=[], yticks=[])
    axes.set_ylabel(f"{len(channels)} channels", fontsize=SMALL)
    order = "upper channels are highest in the first slices,\nlower channels in the last ones"
    axes.set_xlabel(order, fontsize=SMALL)
    axes.spines[:].set_visible(False)
    scale = axes.inset_axes((0.72, 1.085, 0.2, 0.035))
    bar = axes.figure.colorbar(image, cax=scale, ticks=[], orientation="horizontal")
    bar.outline.set_visible(False)
    scale.text(
        -0.06, 0.5, "low", fontsize=SMALL, ha="right", va="center", transform=scale.transAxes
    )
    scale.text(1.06, 0.5, "high", fontsize=SMALL, va="center", transform=scale.transAxes)


def draw_stage1(axes: Axes, sequence: Sequence) -> None:
    """Draw stage 1's probabilities along the series: Present and the true locations."""
    canvas.title(axes, "stage 1 on each slice")
    for number, slice_ in enumerate(sequence.aneurysms):
        label = None if number else "true slice"
        axes.axvspan(slice_ - 0.5, slice_ + 0.5, color=SOFT_TRUE, linewidth=0, label=label)
    for number, location in enumerate(np.flatnonzero(sequence.truth[:PRESENT])):
        look = {"linestyle": ("-", "--", ":")[number % 3], "color": TRUE, "linewidth": 2}
        name = canvas.short_name(LABELS[location])
        axes.plot(sequence.slices, sequence.stage1[:, location], label=name, **look)
    present = sequence.stage1[:, PRESENT]
    axes.plot(sequence.slices, present, color=INK, linewidth=2, label=LABELS[PRESENT])
    below = {"loc": "upper center", "bbox_to_anchor": (0.48, -0.3), "borderaxespad": 0}
    axes.legend(ncols=2, columnspacing=1, handlelength=1.5, frameon=False, fontsize=SMALL, **below)
    axes.set(xlim=ends_of(sequence.slices), ylim=(0, 1.02), yticks=[0, 0.5, 1])
    axes.set_xlabel("slice", fontsize=SMALL)
    axes.set_ylabel("probability", fontsize=SMALL)
    axes.tick_params(labelsize=SMALL, color=LIGHT)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LIGHT)


def ends_of(slices: np.ndarray) -> tuple[float, float]:
    """Return where the axis of these evenly spaced slices begins and ends."""
    half = np.diff(slices[:2]).sum() / 2
    return slices[0] - half, slices[-1] + half
