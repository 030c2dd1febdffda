"""Arteries, veins and saccular aneurysms of one synthetic head, as tubes in millimetres.

Frame, courses, calibres and their sources: tools/phantom/atlas.py. Frequencies of missing and thin
segments: Krabbe-Hartkamp et al. (Radiology 1998;207:103-111), rounded. Sizes of aneurysms, mean
5.7 mm: UCAS Japan (N Engl J Med 2012;366:2474-2482), without the smallest.
"""

from dataclasses import dataclass

import numpy as np

from src.labels import MIRROR
from tools.phantom.atlas import (
    HOSTS,
    MIDLINE_ARTERIES,
    MIDLINE_SITES,
    MIDLINE_VEINS,
    SIDE_ARTERIES,
    SIDE_SITES,
    SIDE_VEINS,
)

STEP = 2.8  # mm between the points of a drawn centre line
REACH = 7.0  # mm from a site to the centre of the dome, about the most; margin of the picture


@dataclass(frozen=True)
class Tube:
    """A vessel as a chain of cones with round ends: `points` (P, 3) in mm, `radii` (P,) in mm."""

    name: str
    points: np.ndarray
    radii: np.ndarray


@dataclass(frozen=True)
class Site:
    """A place on an artery where an aneurysm may grow."""

    label: int  # index of the location
    point: np.ndarray  # (3,) mm
    direction: np.ndarray  # (3,) unit vector
    radius: float  # mm, of the artery
    weight: float  # how often, among the sites of the label


@dataclass(frozen=True)
class Anatomy:
    """Vessels of one head in the head frame. `calcifications` (K, 4): x, y, z, radius in mm."""

    arteries: tuple[Tube, ...]
    veins: tuple[Tube, ...]
    sites: tuple[Site, ...]
    calcifications: np.ndarray


@dataclass(frozen=True)
class Aneurysm:
    """A saccular aneurysm."""

    label: int  # index of the location
    centre: np.ndarray  # (3,) mm, of the dome
    radius: float  # mm, of the dome
    tubes: tuple[Tube, ...]  # dome, neck and lobes


def sample_anatomy(rng: np.random.Generator, variability: float = 1.0) -> Anatomy:
    """Return one head; with `variability` 0 the mean head, the same left and right."""
    scale = 1 + variability * rng.uniform(-0.05, 0.05, 3)
    bend = _smooth_displacement(rng, 1.3 * variability)
    calibre = np.exp(rng.normal(0, 0.08 * variability))
    factors = _variants(rng, variability)
    controls, arteries, veins = {}, {}, []
    for name, ends, points in _both_sides(SIDE_ARTERIES, MIDLINE_ARTERIES):
        controls[name] = bend(points * scale)
        ends = calibre * factors.get(name, 1.0) * ends
        arteries[name] = _tube(rng, name, controls[name], ends, variability)
    for name, ends, points in _both_sides(SIDE_VEINS, MIDLINE_VEINS):
        ends = np.exp(rng.normal(0, 0.2 * variability)) * ends
        veins.append(_tube(rng, name, bend(points * scale), ends, variability))
    sites = tuple(_site(*entry, controls, arteries) for entry in _all_sites())
    extras = _infundibula(rng, controls, variability) + _loops(rng, arteries, variability)
    present = tuple(tube for tube in arteries.values() if tube.radii.max() > 0.2)
    calcifications = _calcifications(rng, arteries, variability)
    return Anatomy(present + extras, tuple(veins), sites, calcifications)


def sample_aneurysm(rng: np.random.Generator, anatomy: Anatomy, label: int) -> Aneurysm:
    """Return a saccular aneurysm at one of the sites of location `label`, leaning away from it.

    Its diameter is log-normal, 5 to 15 mm, and wider than its artery.
    """
    sites = [site for site in anatomy.sites if site.label == label]
    weights = np.array([site.weight for site in sites])
    site = sites[rng.choice(len(sites), p=weights / weights.sum())]
    diameter = np.clip(6.3 * np.exp(rng.normal(0, 0.33)), max(5.0, 3.4 * site.radius), 15.0)
    radius = diameter / 2
    direction = _unit(site.direction + rng.normal(0, 0.2, 3))
    centre = site.point + direction * (0.7 * site.radius + 0.85 * radius)
    long_axis = _unit(direction + rng.normal(0, 0.5, 3)) * radius * rng.uniform(0.0, 0.25)
    ends = np.stack([centre - long_axis, centre + long_axis])
    dome = Tube("dome", ends, np.full(2, radius * 0.95))
    neck = Tube("neck", np.stack([site.point, centre]), radius * np.array([0.55, 0.7]))
    lobe = centre + 0.7 * radius * _unit(direction + rng.normal(0, 0.7, 3))
    tubes = (dome, neck)
    if rng.random() < 0.3:
        tubes += (Tube("lobe", np.stack([lobe, lobe]), np.full(2, 0.5 * radius)),)
    return Aneurysm(label, centre, radius, tubes)


def _both_sides(side: dict, midline: dict) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return name, radii at both ends (2,) and control points (P, 3) of all vessels.

    The names of paired ones begin with L or R.
    """
    vessels = []
    for prefix, table, sign in (("L ", side, 1), ("R ", side, -1), ("", midline, 1)):
        for name, (first, last, points) in table.items():
            points = np.array(points, float) * (sign, 1, 1)
            vessels.append((prefix + name, np.array([first, last]), points))
    return vessels


def _all_sites() -> list[tuple[int, str, int, np.ndarray, float]]:
    """Return label, artery, control point, direction and weight of all sites."""
    sites = []
    for prefix, table, sign in (
        ("L ", SIDE_SITES, 1),
        ("R ", SIDE_SITES, -1),
        ("", MIDLINE_SITES, 1),
    ):
        for label, artery, k, direction, weight in table:
            label = MIRROR[label] if sign < 0 else label
            direction = np.array(direction, float) * (sign, 1, 1)
            sites.append((label, prefix + artery, k, direction, weight))
    return sites


def _site(label, artery: str, k: int, direction, weight, controls: dict, arteries: dict) -> Site:
    """Return the site at control point k; a branch's point 0 belongs to the larger artery."""
    side, _, branch = artery.partition(" ")
    host = arteries[HOSTS.get(branch, artery).format(side=side) if k == 0 else artery]
    nearest = np.argmin(np.linalg.norm(host.points - controls[artery][k], axis=1))
    radius = float(max(host.radii[nearest], 0.8))
    return Site(label, host.points[nearest], _unit(direction), radius, weight)


def _variants(rng: np.random.Generator, variability: float) -> dict[str, float]:
    """Return factors on the calibre of arteries.

    They make an A1 hypoplastic, a posterior communicating artery absent, thin or fetal, and the
    vertebral arteries unequal.
    """
    factors = {}
    hypoplastic_a1, hypoplastic_va = rng.random(2) < np.array([0.1, 0.2]) * variability
    sides = rng.permutation(["L", "R"])
    if hypoplastic_a1:
        factors |= {f"{sides[0]} A1": rng.uniform(0.4, 0.6), f"{sides[1]} A1": 1.15}
    if hypoplastic_va:
        factors |= {f"{sides[1]} VA": rng.uniform(0.45, 0.7), f"{sides[0]} VA": 1.1}
    for side in "LR":
        kind, width = rng.random() if variability else 0.5, rng.uniform(0.8, 1.2)
        if kind < 0.25:
            factors[f"{side} PCom"] = 0.0
        elif kind > 0.87:
            factors |= {f"{side} PCom": 1.6, f"{side} P1": 0.55}
        else:
            factors[f"{side} PCom"] = width if variability else 1.0
    return factors


def _tube(rng, name: str, control: np.ndarray, ends: np.ndarray, variability: float) -> Tube:
    """Return a smooth course through the control points, tapered, with uneven radii.

    Inner control points are moved a little, and a slow wave runs across the course.
    """
    control = control.copy()
    control[1:-1] += rng.normal(0, 0.5 * variability, control[1:-1].shape)
    steps = np.linalg.norm(np.diff(control, axis=0), axis=1)
    chord = np.concatenate([[0], np.cumsum(steps)])
    t = np.linspace(0, chord[-1], max(3, round(chord[-1] / STEP) + 1))
    points = _hermite(chord, control, t)  # (P, 3)
    waves = rng.uniform(12, 25, 3)
    amplitude = rng.uniform(0, 0.6 * variability, 3)
    phase = rng.uniform(0, 2 * np.pi, 3)
    fade = np.minimum(1, np.minimum(t, chord[-1] - t) / 5)[:, None]
    points = points + fade * amplitude * np.sin(2 * np.pi * t[:, None] / waves + phase)
    wave = np.sin(2 * np.pi * t / rng.uniform(8, 20) + rng.uniform(0, 2 * np.pi))
    uneven = 1 + 0.05 * variability * wave
    ends = ends * np.exp(rng.normal(0, 0.06 * variability))
    return Tube(name, points, np.interp(t, [0, chord[-1]], ends) * uneven)


def _hermite(knots: np.ndarray, values: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return a smooth curve through `values` (K, 3) at `knots` (K,), evaluated at `t` (P,).

    Cubic Hermite with central differences as slopes.
    """
    slopes = np.gradient(values, knots, axis=0)
    k = np.clip(np.searchsorted(knots, t, side="right") - 1, 0, len(knots) - 2)
    gap = (knots[k + 1] - knots[k])[:, None]
    u = (t - knots[k])[:, None] / gap
    ends = (1 + 2 * u) * (1 - u) ** 2 * values[k] + u**2 * (3 - 2 * u) * values[k + 1]
    return ends + gap * (u * (1 - u) ** 2 * slopes[k] - u**2 * (1 - u) * slopes[k + 1])


def _smooth_displacement(rng: np.random.Generator, amplitude: float):
    """Return a slow random displacement of space (mm): what is joined stays joined."""
    waves = rng.normal(0, 2 * np.pi / 90, (4, 3, 3))
    phases, sizes = rng.uniform(0, 2 * np.pi, (4, 3)), rng.normal(0, amplitude / 2, (4, 3))

    def bend(points: np.ndarray) -> np.ndarray:
        return points + (sizes * np.sin(np.einsum("wij,pj->pwi", waves, points) + phases)).sum(1)

    return bend


def _infundibula(rng, controls: dict, variability: float) -> tuple[Tube, ...]:
    """Return look-alikes: funnel-shaped origins, under 3 mm, of two kinds of arteries."""
    cones = []
    for name in ("L PCom", "R PCom", "L ophthalmic", "R ophthalmic"):
        origin, towards = controls[name][:2]
        length = rng.uniform(2.8, 3.8)
        if rng.random() < 0.12 * variability:
            points = origin + _unit(towards - origin) * length * np.array([[0.3], [0.7], [1.0]])
            cones.append(Tube("infundibulum", points, np.array([1.3, 0.9, 0.5])))
    return tuple(cones)


def _loops(rng, arteries: dict, variability: float) -> tuple[Tube, ...]:
    """Return look-alikes: cortical branches that curl beside the distal cerebral arteries."""
    loops = []
    for name in ("M2 superior", "M2 inferior", "callosomarginal", "P2"):
        for side in "LR":
            course = arteries[f"{side} {name}"].points
            angles = np.linspace(0, rng.uniform(3, 5), 8)[:, None]
            start = course[rng.integers(len(course) // 2, len(course))]
            size = rng.uniform(2.5, 5)
            plane = rng.normal(size=(2, 3))
            u = _unit(plane[0])
            v = _unit(plane[1] - plane[1] @ u * u)
            circle = start + size * ((np.cos(angles) - 1) * u + np.sin(angles) * v)
            if rng.random() < 0.6 * variability:
                loops.append(Tube("loop", circle, np.linspace(0.8, 0.55, 8)))
    return tuple(loops)


def _calcifications(rng, arteries: dict, variability: float) -> np.ndarray:
    """Return specks (K, 4) in pineal gland, choroid plexus and walls of the carotid siphons."""
    specks = [np.array([0, 36, 21, rng.uniform(1, 2)])]
    specks += [np.array([side * 22, 42, 27, rng.uniform(1, 2.5)]) for side in (-1, 1)]
    for side in "LR":
        siphon = arteries[f"{side} ICA"]
        first, last = len(siphon.points) // 2, len(siphon.points) - 4
        for k in rng.integers(first, last, rng.poisson(1.2 * variability)):
            wall = siphon.points[k] + _unit(rng.normal(size=3)) * siphon.radii[k]
            specks.append(np.append(wall, rng.uniform(0.5, 1.0)))
    return np.array(specks)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
