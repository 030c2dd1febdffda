"""What the field of a whole head shows beside the head: neck, shoulders, vessels, a head holder.

The same frame as the head's (tools/phantom/atlas.py), in mm; proportions of an adult, rounded.
"""

from dataclasses import dataclass

import numpy as np

from tools.phantom.anatomy import Anatomy, Tube
from tools.phantom.tissue import JAW, SKIN, HeadCoordinates, blend, depth_in, paint_shapes, soft

HEAD_CENTRE = SKIN[0]
VERTEX = 110.0  # mm, height of the top of the head
NECK_BEGINS = -48.0  # mm, height
FLESH = (  # centre (|x|, y, z), half-axes: neck, shoulders, chest
    ((0, 15, -130), (58, 60, 120)),
    ((0, 30, -235), (215, 105, 80)),
    ((0, 20, -320), (180, 120, 110)),
)
SHAPES = (  # tissue, centre (|x|, y, z), half-axes, painted in this order
    ("bone", (40, -36, -62), (6, 26, 14)),  # mandible
    ("bone", (0, -72, -72), (26, 7, 11)),
    ("bone", (0, 42, -125), (15, 14, 78)),  # spine
    ("marrow", (0, 42, -125), (11, 10, 75)),
    ("air", (0, -8, -150), (9, 9, 90)),  # airway
    ("bone", (90, -20, -205), (85, 8, 8)),  # clavicles
    ("air", (85, 25, -320), (72, 88, 85)),  # lungs
)
# Vessels from the ends of the head's downwards: name, radius at both ends, points (mm).
NECK_ARTERIES = (
    ("ICA", 2.6, 2.15, [(31, 8, -185), (30, 7, -140), (28, 8, -105), (26, 13, -70)]),
    ("VA", 1.7, 1.4, [(20, 30, -185), (18, 31, -110), (16, 33, -70)]),
)
EXTERNAL_CAROTID = (1.7, 1.1, [(30, 7, -112), (34, -4, -82), (38, 2, -45)])
JUGULAR = ("sigmoid", 5.0, 3.5, [(37, 6, -185), (38, 9, -110), (31, 16, -70)])
FOAM = -150.0  # HU of a head holder; it cannot be seen in MR


@dataclass(frozen=True)
class Body:
    """What surrounds one head."""

    arteries: tuple[Tube, ...]
    veins: tuple[Tube, ...]
    holder: tuple[float, float] | None  # half-axes along x and y of the shell in mm


def sample_body(rng: np.random.Generator, anatomy: Anatomy) -> Body:
    """Return the surroundings of a head; its vessels continue those of the head."""
    arteries, veins = [], []
    for side, sign in (("L", 1), ("R", -1)):
        for name, first, last, points in NECK_ARTERIES:
            end = _start_of(anatomy.arteries, f"{side} {name}")
            arteries.append(_course(rng, f"{side} neck {name}", first, last, points, sign, end))
        first, last, points = EXTERNAL_CAROTID
        arteries.append(_course(rng, f"{side} external carotid", first, last, points, sign, None))
        name, first, last, points = JUGULAR
        end = _start_of(anatomy.veins, f"{side} {name}")
        veins.append(_course(rng, f"{side} jugular", first, last, points, sign, end))
    size = (rng.uniform(100, 118), rng.uniform(118, 130))
    holder = size if rng.random() < 0.7 else None
    return Body(tuple(arteries), tuple(veins), holder)


def paint_body(
    image: np.ndarray, at: HeadCoordinates, values: dict[str, float], body: Body, is_ct: bool
) -> None:
    """Paint the surroundings around a painted head (N, H, W), in place."""
    skin, chin = depth_in(at, *SKIN), depth_in(at, *JAW)
    head = np.maximum(skin, chin)
    flesh = np.maximum.reduce([depth_in(at, centre, axes) for centre, axes in FLESH])
    below = soft(NECK_BEGINS - at.z, 4.0)
    blend(image, 1 - soft(head, at.edge), values["air"])
    beside = soft(flesh, at.edge) * (1 - soft(head, at.edge)) * below
    blend(image, beside, values["muscle"])
    blend(image, beside * soft(2.5 - np.abs(flesh - 4.5), at.edge), values["fat"])
    paint_shapes(image, at, values, SHAPES, below)
    if body.holder is not None and is_ct:
        _paint_holder(image, at, body.holder)


def _paint_holder(image: np.ndarray, at: HeadCoordinates, half: tuple[float, float]) -> None:
    """Paint a shell of foam behind and beside the head."""
    radius = np.hypot(at.x / half[0], (at.y - HEAD_CENTRE[1]) / half[1])
    shell = half[0] * (0.03 - np.abs(radius - 1.03))  # mm inside the shell
    reach = np.minimum(at.y - 10, 90 - np.abs(at.z - 30))  # behind the ears, around the head
    blend(image, soft(np.minimum(shell, reach), at.edge), FOAM)


def _start_of(tubes: tuple[Tube, ...], name: str) -> np.ndarray:
    """Return the first point (3,) of a vessel."""
    return next(tube.points[0] for tube in tubes if tube.name == name)


def _course(
    rng, name: str, first: float, last: float, points: list, sign: int, end: np.ndarray | None
) -> Tube:
    """Return a tube through points that are moved a little, to `end` if it is given."""
    course = np.array(points, float) * (sign, 1, 1)
    course += rng.normal(0, 1.5, course.shape)
    if end is not None:
        course = np.vstack([course, end])
    radii = np.linspace(first, last, len(course)) * np.exp(rng.normal(0, 0.08))
    return Tube(name, course, radii)
