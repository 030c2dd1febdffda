"""The figure of stage 1: three slices, the network, its heatmap and its 14 probabilities."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import FigureBase
from matplotlib.patches import Polygon, Rectangle
from scipy.special import expit

from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.paths import RunFolder
from src.artifacts.tables import read_fold
from src.device import autocast
from src.labels import LABELS
from src.networks.slice_cnn import HEAT_CHANNELS, build_slice_cnn
from src.sampling.augment import crops
from src.sampling.resample import seen_volume
from src.sampling.slices import MIRRORABLE, centre_crop, crop_margin, neighbours
from src.sampling.spot_dataset import SpotDataset, SpotTables, held_out_rows
from tools.figures import canvas
from tools.figures.canvas import GREY, MARK, OTHER, SMALL, SOFT_OTHER

HEAT = LinearSegmentedColormap.from_list(
    "heat", [(0.84, 0.37, 0, 0), (0.84, 0.37, 0, 0.45), (1, 0.75, 0.1, 0.65), (1, 0.97, 0.75, 0.8)]
)


@dataclass
class Spot:
    """A held-out spot and the network's prediction."""

    slices: np.ndarray  # (3,) numbers of the slices
    step: int  # slices to the neighbours
    images: np.ndarray  # (3, S, S) float16 in 0..TOP, the crop is their centre
    crop: int  # pixels, side of what the network sees
    points: np.ndarray  # (K, 2) x, y of the aneurysms in pixels of the crop
    heat: np.ndarray | None  # (h, w) probabilities; None for a network without heatmap
    probabilities: np.ndarray  # (14,)
    truth: np.ndarray  # (14,) 0 or 1
    encoder: str
    widths: tuple[int, int]  # of the pooled features and of those that stage 2 reads
    strides: list[int]  # of the maps that the heatmap is made from
    series: pd.Series  # its row of train_meta.csv
    step_mm: tuple[float, float]  # to the neighbours, as trained


def look(run: RunFolder, tables: SpotTables, uid: str, device: torch.device) -> Spot:
    """Return the first spot of a held-out series, judged by its fold's network.

    Raise ArtifactError if that network was trained on the series.
    """
    checkpoint = read_checkpoint(run.best("stage1"), ("weights", "settings"))
    settings = checkpoint["settings"]
    series, crop = tables.meta.loc[uid], settings["crop_size"]
    read_fold(tables.data, series.fold, settings)
    rows = held_out_rows(tables.spots[tables.spots.SeriesInstanceUID == uid], series.fold)
    in_mm = {name: settings[name] for name in ("view_mm", "step_mm")}
    dataset = SpotDataset(tables, rows, crop, seed=0, augmentation=None, **in_mm)
    sample = dataset.__getitems__([(0, 0)])
    points = sample["points"][0].numpy()  # (most points, 2), NaN where there is none

    model = build_slice_cnn(settings, checkpoint["weights"], device)
    images = crops(sample, crop).to(device)  # (1, 3, crop, crop)
    with torch.inference_mode(), autocast(device):
        out = model(images)
    whole, step = dataset.views[uid].whole, dataset.steps[uid][0]
    virtual = seen_volume(sample["images"][0], whole, torch.device("cpu"))  # (3, S, S)
    return Spot(
        slices=neighbours(int(rows.f[0]), step, int(series.length)),
        step=step,
        images=virtual.numpy(),
        crop=crop,
        points=points[np.isfinite(points).all(axis=1)],
        heat=None if out.heatmap is None else expit(out.heatmap[0].float().cpu().numpy()),
        probabilities=expit(out.logits[0].float().cpu().numpy()),
        truth=dataset.truth().loc[0, list(LABELS)].to_numpy(float),
        encoder=settings["encoder"],
        widths=(model.plan.features, model.channels),
        strides=model.plan.strides,
        series=series,
        step_mm=settings["step_mm"],
    )


def draw(spot: Spot, path: Path) -> None:
    """Draw from left to right: what goes in, the network, what comes out."""
    with canvas.style():
        figure = canvas.new_figure(6.3)
        slices, network, found = figure.subfigures(1, 3, width_ratios=[2.05, 3.85, 4.1])
        above, below = found.subfigures(2, 1, height_ratios=[2.7, 3.6])
        draw_slices(slices, spot)
        draw_network(network.subplots(), spot)
        draw_heat(above.subplots(), spot)
        canvas.probability_bars(below, "14 probabilities", spot.probabilities, spot.truth)
        canvas.save(figure, path)


def draw_slices(figure: FigureBase, spot: Spot) -> None:
    """Draw the three channels one below the other, the crop outlined."""
    panels = figure.subplots(3, 1)
    canvas.title(panels[0], "three neighbouring slices", f"of a held-out {spot.series.Modality}")
    corner = crop_margin(spot.images.shape[-1], spot.crop) - 0.5
    for number, name in enumerate((f"i − {spot.step}", "i", f"i + {spot.step}")):
        canvas.show_slice(panels[number], spot.images[number])
        look = {"fill": False, "edgecolor": MARK, "linewidth": 1.1, "linestyle": "--"}
        panels[number].add_patch(Rectangle((corner, corner), spot.crop, spot.crop, **look))
        canvas.chip(panels[number], 0.09, 0.09, f"{name} = {spot.slices[number]}", va="bottom")
    canvas.chip(panels[2], 0.91, 0.09, "crop", MARK, va="bottom", ha="right")


def draw_network(axes: Axes, spot: Spot) -> None:
    """Draw a schema of slice_cnn.SliceCNN."""
    canvas.title(axes, " ")  # as high as the title of the slices
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    axes.plot([0, 0.025, 0.025, 0], [1, 1, 0, 0], color=GREY, linewidth=1.2, clip_on=False)
    canvas.arrow(axes, (0.025, 0.5, axes), (0.12, 0.5, axes))
    corners = [(0.13, 0.29), (0.13, 0.71), (0.53, 0.59), (0.53, 0.41)]
    axes.add_patch(Polygon(corners, facecolor=SOFT_OTHER, edgecolor=OTHER, linewidth=1.2))
    place = {"ha": "center", "va": "center"}
    axes.text(0.33, 0.53, "encoder", weight="bold", **place)
    axes.text(0.33, 0.48, spot.encoder.replace(".", "\n."), fontsize=SMALL, **place)

    pooled = canvas.box(axes, 0.77, 0.5, "pooled", f"{spot.widths[0]} numbers")
    joined = canvas.box(
        axes, 0.82, 0.22, "features", f"{spot.widths[1]} numbers a\nslice, for stage 2"
    )
    canvas.arrow(axes, (0.53, 0.5, axes), (0, 0.5, pooled))
    canvas.arrow(axes, (0.5, 0, pooled), (0.77, 0.31, axes))
    canvas.arrow(axes, (1, 0.5, joined), (1.07, 0.22, axes))
    if spot.heat is not None:
        strides = ", ".join(map(str, spot.strides))
        branch = canvas.box(axes, 0.8, 0.83, "heatmap branch", f"maps of stride\n{strides}")
        canvas.arrow(axes, (0.33, 0.66, axes), (0, 0.5, branch), bend=-0.3)
        canvas.arrow(axes, (1, 0.5, branch), (1.07, 0.83, axes))
        canvas.arrow(axes, (0.96, 0.75, axes), (0.96, 0.31, axes))
        weighted = f"{HEAT_CHANNELS} numbers where\nthe heat is, its x, y"
        axes.text(0.93, 0.67, weighted, fontsize=SMALL, color=GREY, ha="right", va="center")


def draw_heat(axes: Axes, spot: Spot) -> None:
    """Draw the middle slice as the network sees it, under the heatmap, true points circled."""
    name = "aneurysm" if spot.heat is None else "heatmap"
    canvas.title(axes, name, f"over slice {spot.slices[1]}")
    canvas.show_slice(axes, centre_crop(spot.images[1], spot.crop))
    axes.set_anchor("NW")
    if spot.heat is not None:
        end, top = spot.crop - 0.5, max(0.5, spot.heat.max())
        look = {"cmap": HEAT, "vmin": 0, "vmax": top, "interpolation": "bicubic"}
        image = axes.imshow(spot.heat, extent=(-0.5, end, end, -0.5), **look)
        scale = axes.inset_axes((1.08, 0.02, 0.07, 0.62), facecolor="black")
        bar = axes.figure.colorbar(image, cax=scale, label="probability")
        bar.ax.tick_params(labelsize=SMALL)
    canvas.circle(axes, *spot.points.T, size=17, label="true point")
    corner = {"loc": "upper left", "bbox_to_anchor": (1.04, 1), "borderaxespad": 0}
    dark = {"facecolor": "black", "framealpha": 1, "labelcolor": "white"}
    axes.legend(fontsize=SMALL, markerscale=0.7, **dark, **corner)
    if spot.series.plane in MIRRORABLE:  # its image x axis is the patient's left-right axis
        canvas.chip(axes, 0.03, 0.5, "R", va="center")
        canvas.chip(axes, 0.97, 0.5, "L", va="center", ha="right")
