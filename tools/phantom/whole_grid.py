"""Fields of view of whole heads, with the sizes of real series: a matrix of 512 stands for 512.

Sizes: the challenge's data (slices per series: CTA about 400, MRA 175, T2 150, T1post 35; 0.5 to
6 mm apart) and common protocols for what it does not say.
"""

from dataclasses import dataclass

import numpy as np

from tools.phantom.anatomy import REACH, Anatomy
from tools.phantom.body import HEAD_CENTRE, VERTEX
from tools.phantom.render import CTA, MRA, T1POST, T2, Grid, Pose

FULL = 512  # pixels: the matrix that no series is scaled down at
THICK = 2.5  # mm: thinner slices become thicker where the matrix is scaled down, thicker ones stay
OFF_CENTRE = 12.0  # mm, standard deviation of the head's centre from the field's in the plane
UNEQUAL_FRACTION = 0.1  # of MR: pixels that are not square
MARGIN = REACH + 2  # mm around the places where aneurysms may grow


@dataclass(frozen=True)
class Protocol:
    """How a modality is scanned. Ranges are drawn from evenly."""

    view: tuple[float, float]  # mm, the longer side of the field
    matrices: tuple[tuple[int, int], ...]  # rows and columns
    thin: tuple[float, float]  # mm between slices
    thick: tuple[float, float]
    thick_fraction: float  # of the series
    cover: tuple[float, float]  # mm across all slices
    from_top: bool  # begins above the head; else centred on the arteries


# fmt: off
PROTOCOLS = {
    CTA: Protocol((170, 300), ((512, 512),), (0.5, 0.75), (1.0, 1.25), 0.12, (190, 330), True),
    MRA: Protocol(
        (150, 230), ((512, 512), (512, 416), (384, 384), (448, 384)), (0.5, 0.7), (0.7, 1.0), 0.2,
        (92, 125), False,
    ),
    T2: Protocol(
        (180, 240), ((512, 512), (320, 320), (512, 416), (384, 320)), (0.8, 1.0), (3.0, 6.0), 0.3,
        (150, 175), True,
    ),
    T1POST: Protocol(
        (200, 260), ((512, 512), (256, 256), (320, 260)), (0.9, 1.2), (4.0, 6.0), 0.75,
        (150, 180), True,
    ),
}
# fmt: on


def draw_whole_grid(
    rng: np.random.Generator,
    anatomy: Anatomy,
    pose: Pose,
    modality: str,
    axes: np.ndarray,
    matrix: int,
) -> Grid:
    """Return a grid of a whole head that holds every place where an aneurysm may grow.

    axes: (3, 3) unit vectors: slice normal, down the rows, along the columns.
    matrix: pixels that stand for 512: the others, and thin slices, are scaled alike.
    """
    protocol = PROTOCOLS[modality]
    scale = matrix / FULL
    rows, columns = protocol.matrices[rng.integers(len(protocol.matrices))]
    view = rng.uniform(*protocol.view)
    is_thick, unequal = rng.random(2) < (protocol.thick_fraction, UNEQUAL_FRACTION)
    gap = rng.uniform(*(protocol.thick if is_thick else protocol.thin))
    gap = gap if gap > THICK else min(gap / scale, max(gap, THICK))
    stretch = rng.uniform(0.85, 1.2) if unequal and modality != CTA else 1.0
    pixel = view / max(rows, columns) / scale
    cover = rng.uniform(*protocol.cover)
    across = rng.normal(0, OFF_CENTRE, 3)

    centre = axes @ pose.to_patient(np.array([HEAD_CENTRE]))[0] + across  # (3,) mm along the axes
    sites = np.array([site.point for site in anatomy.sites])
    sites = pose.to_patient(sites) @ axes.T  # (sites, 3)
    low, high = sites.min(0) - MARGIN, sites.max(0) + MARGIN
    axial = abs(axes[0, 2]) > 0.7
    if not axial:
        cover = min(cover, 190.0)
    elif protocol.from_top:
        top = axes[0] @ pose.to_patient(np.array([(0, 0, VERTEX)]))[0] + rng.uniform(-8, 12)
        centre[0] = top - cover / 2
    else:
        centre[0] = (low[0] + high[0]) / 2 + across[0] / 2
    count = max(round(cover / gap), int(np.ceil((high - low)[0] / gap)))
    shape = np.array([count, round(rows * scale), round(columns * scale)])
    spacing = np.array([gap, pixel * stretch, pixel])
    spacing[1:] = np.maximum(spacing[1:], (high - low)[1:] / shape[1:])
    spacing = np.round(spacing, 4)

    half = shape * spacing / 2
    centre = np.clip(centre, high - half, np.maximum(low + half, high - half))
    origin = (centre - (shape - 1) * spacing / 2) @ axes
    return Grid(tuple(shape.tolist()), tuple(spacing.tolist()), origin, axes)
