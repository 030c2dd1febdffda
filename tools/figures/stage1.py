"""The figure of stage 1: three neighbouring slices, the network, its heatmap and its 14 outputs, for one held-out spot."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Polygon, Rectangle

from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.paths import RunFolder
from src.artifacts.tables import read_fold
from src.device import autocast
from src.labels import LABELS
from src.networks.slice_cnn import HEAT_CHANNELS, build_slice_cnn
from src.sampling.slices import centre_crop, crop_margin, neighbours
from src.sampling.spot_dataset import SpotDataset, SpotTables, held_out_rows
from tools.figures.canvas import (
    GREY,
    MARK,
    OTHER,
    SMALL,
    SOFT_OTHER,
    TRUE,
    Sheet,
    chip,
    fonts,
    name_sides,
    probability_bars,
    show_slice,
)

HEAT = LinearSegmentedColormap.from_list(
    "heat", [(0.84, 0.37, 0, 0), (0.84, 0.37, 0, 0.45), (1, 0.75, 0.1, 0.65), (1, 0.97, 0.75, 0.8)]
)
EVALUATED_STEP = 1  # slices between a held-out spot's slice and its neighbours


@dataclass
class Spot:
    """A held-out spot, and what the network makes of it."""

    slices: np.ndarray  # (3,) numbers of the slices
    images: np.ndarray  # (3, S, S) float16 in 0..TOP
    crop: int  # pixels, side of what the network sees
    points: np.ndarray  # (K, 2) x, y of the aneurysms in pixels of the crop
    heat: np.ndarray | None  # (h, w) probabilities; None for a network without heatmap
    probabilities: np.ndarray  # (14,)
    truth: np.ndarray  # (14,) 0 or 1
    encoder: str
    widths: tuple[int, int]  # of the pooled features and of those that stage 2 reads
    strides: list[int]  # of the maps that the heatmap is made from
    series: pd.Series  # its row of train_meta.csv


def look(run: RunFolder, tables: SpotTables, uid: str, device: torch.device) -> Spot:
    """The first spot of a held-out series, with the network of its fold, which never saw it."""
    checkpoint = read_checkpoint(run.best("stage1"), ("weights", "settings"))
    settings = checkpoint["settings"]
    series = tables.meta.loc[uid]
    read_fold(
        tables.data, series.fold, settings
    )  # refuses a network that was trained on this series
    rows = held_out_rows(tables.spots[tables.spots.SeriesInstanceUID == uid], series.fold)
    dataset = SpotDataset(tables, rows, settings["crop_size"], seed=0, augmentation=None)
    sample = dataset[0, 0]

    model = build_slice_cnn(settings, checkpoint["weights"], device)
    crop = (
        torch.from_numpy(centre_crop(sample["images"], settings["crop_size"]))
        .float()[None]
        .to(device)
    )  # (1, 3, crop, crop)
    with torch.inference_mode(), autocast(device):
        out = model(crop)
    return Spot(
        slices=neighbours(int(rows.f[0]), EVALUATED_STEP, int(series.length)),
        images=sample["images"],
        crop=settings["crop_size"],
        points=sample["points"][np.isfinite(sample["points"]).all(axis=1)],
        heat=None if out.heatmap is None else out.heatmap[0].sigmoid().cpu().numpy(),
        probabilities=out.logits[0].sigmoid().cpu().numpy(),
        truth=dataset.truth().loc[0, list(LABELS)].to_numpy(float),
        encoder=settings["encoder"],
        widths=(model.encoder.head_hidden_size, model.channels),
        strides=[model.encoder.feature_info[tap]["reduction"] for tap in model.taps],
        series=series,
    )


def draw(spot: Spot, path: Path) -> None:
    """Left to right: what goes in, the network, what comes out."""
    with fonts():
        sheet = Sheet(6.3)
        draw_slices(sheet, spot)
        draw_network(sheet, spot)
        draw_found(sheet, spot)
        sheet.title(6.05, 3.3, "14 probabilities", "● true labels", TRUE)
        probability_bars(sheet.panel(8.05, 0.12, 1.42, 3.05), spot.probabilities, spot.truth)
        sheet.save(path)


def draw_slices(sheet: Sheet, spot: Spot) -> None:
    """The three channels one below the other, the crop outlined."""
    sheet.title(0.15, 5.98, "three neighbouring slices", f"of a held-out {spot.series.Modality}")
    margin = crop_margin(spot.images.shape[-1], spot.crop)
    for place, (slice_, name) in enumerate(zip(spot.slices, ("i − 1", "i", "i + 1"), strict=True)):
        axes = sheet.panel(0.15, 4.02 - 1.93 * place, 1.85, 1.85)
        show_slice(axes, spot.images[place])
        axes.add_patch(
            Rectangle(
                (margin - 0.5, margin - 0.5),
                spot.crop,
                spot.crop,
                fill=False,
                edgecolor=MARK,
                linewidth=1.1,
                linestyle="--",
            )
        )
        chip(axes, 0.09, 0.09, f"{name} = {slice_}", va="bottom")
    chip(axes, 0.91, 0.09, "crop", MARK, va="bottom", ha="right")
    sheet.ground.plot([2.06, 2.14, 2.14, 2.06], [5.87, 5.87, 0.16, 0.16], color=GREY, linewidth=1.2)
    sheet.arrow((2.14, 3.02), (2.46, 3.02))


def draw_network(sheet: Sheet, spot: Spot) -> None:
    """A schema of slice_cnn.SliceCNN."""
    funnel = Polygon(
        [(2.52, 1.85), (2.52, 4.2), (4.02, 3.5), (4.02, 2.55)],
        facecolor=SOFT_OTHER,
        edgecolor=OTHER,
        linewidth=1.2,
        joinstyle="round",
    )
    sheet.ground.add_patch(funnel)
    sheet.text(3.22, 3.14, "encoder", weight="bold", ha="center", va="center")
    sheet.text(3.22, 3.0, spot.encoder.replace(".", "\n."), SMALL, ha="center", va="top")
    pooled, joined = spot.widths
    sheet.arrow((4.06, 3.02), (4.34, 3.02))
    sheet.box(4.38, 2.68, 1.0, 0.7, "pooled", f"{pooled} numbers")
    sheet.arrow((4.88, 2.64), (4.88, 2.1))
    sheet.box(4.38, 1.2, 1.42, 0.86, "features", f"{joined} a slice,\nfor stage 2")
    sheet.arrow((5.84, 1.63), (6.1, 1.63))
    if spot.heat is not None:
        strides = ", ".join(map(str, spot.strides))
        sheet.arrow((3.3, 3.95), (4.11, 4.82), "arc3,rad=-0.3")
        sheet.box(4.15, 4.4, 1.65, 0.86, "heatmap branch", f"maps of stride\n{strides}")
        sheet.arrow((5.84, 4.83), (6.1, 4.83))
        sheet.arrow((5.6, 4.36), (5.6, 2.1))
        sheet.text(
            5.5,
            3.94,
            f"{HEAT_CHANNELS} numbers where\nthe heat is, its x, y",
            SMALL,
            GREY,
            ha="right",
            va="center",
            linespacing=1.25,
        )


def draw_found(sheet: Sheet, spot: Spot) -> None:
    """The middle slice as the network sees it, under the heatmap; the true points circled."""
    sheet.title(
        6.15,
        5.98,
        "heatmap" if spot.heat is not None else "aneurysm",
        f"over slice {spot.slices[1]}",
    )
    axes = sheet.panel(6.15, 3.75, 2.12, 2.12)
    show_slice(axes, centre_crop(spot.images[1], spot.crop))
    if spot.heat is not None:
        draw_heat(sheet, axes, spot)
    axes.plot(
        *spot.points.T,
        "o",
        markersize=17,
        markerfacecolor="none",
        markeredgecolor=MARK,
        markeredgewidth=1.6,
    )
    name_sides(axes, spot.series.plane)
    sheet.ground.plot(
        8.52,
        5.6,
        "o",
        markersize=13,
        markerfacecolor="black",
        markeredgecolor=MARK,
        markeredgewidth=1.6,
    )
    sheet.text(8.72, 5.6, "true point", SMALL, va="center_baseline")


def draw_heat(sheet: Sheet, axes: Axes, spot: Spot) -> None:
    """The heatmap over the slice, and its colours beside it on black."""
    end, top = spot.crop - 0.5, max(0.5, spot.heat.max())
    axes.imshow(
        spot.heat,
        cmap=HEAT,
        vmin=0,
        vmax=top,
        extent=(-0.5, end, end, -0.5),
        interpolation="bicubic",
    )
    scale = sheet.panel(8.45, 3.85, 0.15, 1.3)
    scale.set_facecolor("black")
    scale.imshow(np.linspace(top, 0, 256)[:, None], cmap=HEAT, aspect="auto")
    scale.set(xticks=[], yticks=[])
    for y, text in ((3.87, "0.0"), (4.5, "probability"), (5.13, f"{top:.1f}")):
        sheet.text(8.68, y, text, SMALL, va="center_baseline")
