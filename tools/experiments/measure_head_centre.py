"""Measure how far the head's centre is from the truth in synthetic whole heads, in each plane.

    python tools/experiments/measure_head_centre.py
    python tools/experiments/measure_head_centre.py --data heads/data
    python tools/experiments/measure_head_centre.py --draw FOLDER

Prints, for each plane, how many heads are within 8 mm, and the largest distance. --data measures
what preprocess_data.py wrote of a set of tools/make_demo_data.py --whole-heads. --draw writes
head_centres.png (--out) instead: slices of each series in FOLDER, and its centre.

Notes
  - The truth is the centre of the skin's ellipsoid in the phantom (tools/phantom/tissue.py),
    projected into the plane of the slices.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import Pool
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.artifacts.files import read_json
from src.dicom import DicomError, open_series
from src.labels import MODALITIES
from src.orientation import (
    canonical,
    canonical_point,
    canonical_shape,
    normal_of,
    orientation_code,
    plane_of,
)
from src.preprocess.head import head_centre, sample_slices, shrunk
from src.preprocess.images import prepare
from src.preprocess.intensity import apply_window, window_of
from src.progress import progress
from src.sampling.view import extent_mm
from src.script import UserError, run_script
from tools.make_demo_data import SETTINGS, Head, draw_head, plan_locations, render, series_uid
from tools.make_demo_data import Config as DemoConfig
from tools.phantom import scan
from tools.phantom.body import HEAD_CENTRE

PLANES = ("axial", "coronal", "sagittal")
CLOSE = 8.0  # mm


@dataclass
class Config:
    heads: int = 200  # of each plane
    matrix: int = 96  # pixels that stand for 512
    workers: int = 2  # processes
    seed: int = 1000  # another seed makes other heads; the demo's are 0
    data: Path | None = None  # synthetic data set to measure: its train_meta.csv
    draw: Path | None = None  # folder of real series, a folder each, to draw
    out: Path = Path("head_centres.png")  # what is drawn


@dataclass(frozen=True)
class Case:
    """What `head_centre` is given of one synthetic head, and the truth."""

    images: np.ndarray  # (k, SIDE, SIDE) float32
    positions: np.ndarray  # (k,) mm
    plane: str
    modality: str  # CT or MR
    size: tuple[float, float]  # mm
    truth: np.ndarray  # (2,) x and y as fractions of the image

    def error(self) -> np.ndarray:
        """Return the error (2,) along x and y in mm; of the image's middle if nothing is found."""
        found = head_centre(self.images, self.positions, self.plane, self.modality, self.size)
        return (np.array(found or (0.5, 0.5)) - self.truth) * self.size[::-1]


def main(config: Config) -> None:
    if config.draw:
        draw_series(config.draw, config.out)
        return
    if config.data:
        for plane, errors in errors_of_set(config.data).items():
            print(line_of(plane, errors))
        return
    for plane in PLANES:
        heads = [(config, *drawn) for drawn in draw(config, plane)]
        with Pool(config.workers) as pool:
            done = progress(pool.imap(_error, heads), plane, "heads", total=len(heads))
            errors = np.array(list(done))  # (heads, 2) mm
        print(line_of(plane, errors))


def line_of(plane: str, errors: np.ndarray) -> str:
    """Return a line of figures from errors (N, 2) in mm."""
    distance = np.hypot(*errors.T)
    return (
        f"{plane}: {np.mean(distance < CLOSE):.1%} of {len(errors)} heads within {CLOSE:.0f} "
        f"mm, median {np.median(distance):.1f}, largest {distance.max():.1f} mm"
    )


def errors_of_set(data: Path) -> dict[str, np.ndarray]:
    """Return the errors (N, 2) in mm of a synthetic data set in each plane."""
    settings = read_json(data / SETTINGS)
    settings.pop("finished")
    config = DemoConfig(**settings)
    table = pd.read_csv(data / "train_meta.csv").set_index("SeriesInstanceUID")
    errors: dict[str, list] = {}
    for index, locations in enumerate(plan_locations(config.series, config.seed)):
        head = draw_head(config, index, locations)
        truth, size = truth_of(head)
        row = table.loc[series_uid(config, index)]
        found = row[["head_x", "head_y"]].fillna(0.5).to_numpy(float)
        errors.setdefault(row.plane, []).append((found - truth) * size[::-1])
    return {plane: np.array(of_plane) for plane, of_plane in errors.items()}


def truth_of(head: Head) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the centre (2,), x and y as fractions of the image, and the image's size in mm."""
    grid, code = head.scan.grid, orientation_code(orientation_of(head))
    height, width = grid.shape[1:]
    _, y, x = grid.to_index(head.scan.pose.to_patient(np.array([HEAD_CENTRE])))[0]
    truth = np.array(canonical_point(x, y, code, height, width)) + 0.5
    shape = canonical_shape(height, width, code)
    size = canonical_shape(height * grid.spacing[1], width * grid.spacing[2], code)
    return truth / shape[::-1], size


def draw(config: Config, plane: str) -> Iterator[tuple[int, Head]]:
    """Yield heads scanned in a plane, and which of the synthetic series they are."""
    with patch.object(scan, "PLANE_FRACTIONS", {plane: 1.0}):
        for index in range(config.heads):
            yield index, with_few_slices(draw_head(demo_config(config), index, []))


def with_few_slices(head: Head) -> Head:
    """Return a head whose slices are further apart: as many as `head_centre` looks at."""
    grid = head.scan.grid
    length = len(sample_slices(grid.shape[0]))
    gap = grid.spacing[0] * (grid.shape[0] - 1) / max(length - 1, 1)
    grid = replace(grid, shape=(length, *grid.shape[1:]), spacing=(gap, *grid.spacing[1:]))
    return replace(head, scan=replace(head.scan, grid=grid))


def demo_config(config: Config) -> DemoConfig:
    return DemoConfig(whole_heads=True, matrix=config.matrix, series=config.heads, seed=config.seed)


def orientation_of(head: Head) -> tuple[float, ...]:
    """Return the direction cosines (6,) of a head's rows and columns, as DICOM has them."""
    axes = head.scan.grid.axes
    return (*axes[2], *axes[1])


def case_of(config: Config, index: int, head: Head) -> Case:
    """Render a head and prepare it as preprocess_data.py does."""
    cv2.setNumThreads(1)
    volume, grid = render(demo_config(config), index, head), head.scan.grid
    modality = "CT" if head.scan.modality == MODALITIES[0] else "MR"
    window = window_of(modality, "percentile", lambda: np.unique(volume, return_counts=True))
    numbers, orientation = sample_slices(len(volume)), orientation_of(head)
    code, normal = orientation_code(orientation), normal_of(orientation)
    images = [shrunk(canonical(apply_window(volume[k], window), code)) for k in numbers]
    along = grid.to_patient(numbers[:, None] * np.array([[1, 0, 0]])) @ normal  # (k,) mm
    order = np.argsort(along)

    truth, size = truth_of(head)
    return Case(
        np.stack(images)[order],
        along[order],
        plane_of(orientation),
        modality,
        size,
        truth,
    )


def centre_of(folder: Path) -> tuple[np.ndarray, tuple[float, float], tuple | None]:
    """Return a real series' images (k, S, S), their height and width in mm, and the centre.

    The centre is x and y in mm, or None.
    """
    series = open_series(folder)
    prepared = prepare(series, 256, "percentile", sample_slices).in_memory()
    across, down = extent_mm(series.shape[1:], series.spacing[1:], series.orientation)
    found = prepared.head
    centre = None if found is None else (found[0] * across, found[1] * down)
    return prepared.images, (down, across), centre


def draw_series(root: Path, out: Path) -> None:
    """Draw four slices of each series, the head's centre, and a grid to measure on."""
    from matplotlib import pyplot as plt

    drawn = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        try:
            drawn.append((folder.name, *centre_of(folder)))
        except DicomError as error:
            print(f"{folder.name}: {error}")
    if not drawn:
        raise UserError(f"{root} has no folder with a series: name one that has.")
    figure, axes = plt.subplots(len(drawn), 4, figsize=(16, 4 * len(drawn)), squeeze=False)
    for row, (name, images, (height, width), centre) in zip(axes, drawn, strict=True):
        for panel, part in zip(row, (0.3, 0.45, 0.6, 0.75), strict=True):
            image = images[round(part * (len(images) - 1))].astype(np.float32)
            panel.imshow(np.sqrt(image), "gray", vmin=0, vmax=1.6, extent=(0, width, height, 0))
            panel.grid(alpha=0.4)
            if centre:
                panel.plot(*centre, "r+", markersize=30)
        row[0].set_title(f"{name}: {np.round(centre) if centre else 'no head'} mm")
    figure.savefig(out, dpi=60, bbox_inches="tight")


def _error(job: tuple[Config, int, Head]) -> np.ndarray:
    return case_of(*job).error()


if __name__ == "__main__":
    run_script(main, Config, __doc__)
