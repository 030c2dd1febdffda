"""Arteries, veins and saccular aneurysms of one synthetic head, as tubes in millimetres: the anatomy that tools/phantom/render.py draws.

Frame, courses, calibres and their sources: tools/phantom/atlas.py. Frequencies of missing and thin segments: Krabbe-Hartkamp et al.
(Radiology 1998;207:103-111), rounded; sizes of aneurysms, mean 5.7 mm: UCAS Japan (N Engl J Med 2012;366:2474-2482), without the smallest.
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
REACH = 7.0  # mm from a site to the centre of the dome, at most about: what the field of view leaves as margin


@dataclass(frozen=True)
class Tube:
    """A vessel as a chain of cones with round ends: `points` (P, 3) in mm, `radii` (P,) in mm."""

    name: str
    points: np.ndarray
    radii: np.ndarray


@dataclass(frozen=True)
class Site:
    """A place on an artery where an aneurysm of location `label` grows: `point` and unit `direction` (3,), `radius` of the artery in mm."""

    label: int
    point: np.ndarray
    direction: np.ndarray
    radius: float
    weight: float


@dataclass(frozen=True)
class Anatomy:
    """Vessels of one head in the head frame. `calcifications` (K, 4): x, y, z, radius in mm."""

    arteries: tuple[Tube, ...]
    veins: tuple[Tube, ...]
    sites: tuple[Site, ...]
    calcifications: np.ndarray


@dataclass(frozen=True)
class Aneurysm:
    """A saccular aneurysm of location `label`: `centre` (3,) of the dome and its `radius` in mm; `tubes` are dome, neck and lobes."""

    label: int
    centre: np.ndarray
    radius: float
    tubes: tuple[Tube, ...]


def sample_anatomy(rng: np.random.Generator, variability: float = 1.0) -> Anatomy:
    """One head. With `variability` 0 it is the mean head, the same left and right."""
    scale = 1 + variability * rng.uniform(-0.05, 0.05, 3)
    bend = _smooth_displacement(rng, 1.3 * variability)
    calibre = np.exp(rng.normal(0, 0.08 * variability))
    controls = {
        name: (r0, r1, bend(points * scale))
        for name, (r0, r1, points) in _both_sides(SIDE_ARTERIES, MIDLINE_ARTERIES).items()
    }
    thickness = _variants(rng, variability)
    arteries = {
        name: _tube(
            rng, name, points, calibre * thickness.get(name, 1.0) * np.array([r0, r1]), variability
        )
        for name, (r0, r1, points) in controls.items()
    }
    sites = tuple(_site(entry, controls, arteries) for entry in _all_sites())
    veins = tuple(
        _tube(
            rng,
            name,
            bend(points * scale),
            np.exp(rng.normal(0, 0.2 * variability)) * np.array([r0, r1]),
            variability,
        )
        for name, (r0, r1, points) in _both_sides(SIDE_VEINS, MIDLINE_VEINS).items()
    )
    extras = _infundibula(rng, controls, variability) + _loops(rng, arteries, variability)
    present = tuple(tube for tube in arteries.values() if tube.radii.max() > 0.2)
    return Anatomy(present + extras, veins, sites, _calcifications(rng, arteries, variability))


def sample_aneurysm(rng: np.random.Generator, anatomy: Anatomy, label: int) -> Aneurysm:
    """A saccular aneurysm at one of the sites of location `label`: log-normal diameter, 5 to 15 mm and wider than its artery, leaning away from it."""
    sites = [site for site in anatomy.sites if site.label == label]
    weights = np.array([site.weight for site in sites])
    site = sites[rng.choice(len(sites), p=weights / weights.sum())]
    diameter = np.clip(6.3 * np.exp(rng.normal(0, 0.33)), max(5.0, 3.4 * site.radius), 15.0)
    radius = diameter / 2
    direction = _unit(site.direction + rng.normal(0, 0.2, 3))
    centre = site.point + direction * (0.7 * site.radius + 0.85 * radius)
    long_axis = _unit(direction + rng.normal(0, 0.5, 3)) * radius * rng.uniform(0.0, 0.25)
    dome = Tube(
        "dome", np.stack([centre - long_axis, centre + long_axis]), np.full(2, radius * 0.95)
    )
    neck = Tube("neck", np.stack([site.point, centre]), radius * np.array([0.55, 0.7]))
    lobe = centre + 0.7 * radius * _unit(direction + rng.normal(0, 0.7, 3))
    lobes = (
        (Tube("lobe", np.stack([lobe, lobe]), np.full(2, 0.5 * radius)),)
        if rng.random() < 0.3
        else ()
    )
    return Aneurysm(label, centre, radius, (dome, neck, *lobes))


def _both_sides(side: dict, midline: dict) -> dict:
    """Control points of all vessels: {name: (start radius, end radius, (P, 3))}, with L or R before the names of paired ones."""
    left = {
        f"L {name}": (r0, r1, np.array(points, float)) for name, (r0, r1, points) in side.items()
    }
    right = {
        f"R {name}": (r0, r1, np.array(points, float) * (-1, 1, 1))
        for name, (r0, r1, points) in side.items()
    }
    return (
        left
        | right
        | {name: (r0, r1, np.array(points, float)) for name, (r0, r1, points) in midline.items()}
    )


def _all_sites() -> list:
    left = [
        (label, f"L {artery}", k, np.array(d, float), w) for label, artery, k, d, w in SIDE_SITES
    ]
    right = [
        (MIRROR[label], f"R {artery}", k, np.array(d, float) * (-1, 1, 1), w)
        for label, artery, k, d, w in SIDE_SITES
    ]
    return (
        left
        + right
        + [(label, artery, k, np.array(d, float), w) for label, artery, k, d, w in MIDLINE_SITES]
    )


def _site(entry, controls: dict, arteries: dict) -> Site:
    """What branches off a larger artery (control point 0) grows its aneurysm from that one."""
    label, artery, k, direction, weight = entry
    side, _, branch = artery.partition(" ")
    host = arteries[HOSTS.get(branch, artery).format(side=side) if k == 0 else artery]
    nearest = np.argmin(np.linalg.norm(host.points - controls[artery][2][k], axis=1))
    return Site(
        label, host.points[nearest], _unit(direction), float(max(host.radii[nearest], 0.8)), weight
    )


def _variants(rng: np.random.Generator, variability: float) -> dict[str, float]:
    """Factors on the calibre: hypoplastic A1, absent, thin or fetal posterior communicating artery, unequal vertebral arteries."""
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


def _tube(
    rng: np.random.Generator, name: str, control: np.ndarray, ends: np.ndarray, variability: float
) -> Tube:
    """A smooth course through the control points: inner ones moved a little, a slow wave across, tapered and uneven radii."""
    control = control.copy()
    control[1:-1] += rng.normal(0, 0.5 * variability, control[1:-1].shape)
    chord = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(control, axis=0), axis=1))])
    t = np.linspace(0, chord[-1], max(3, round(chord[-1] / STEP) + 1))
    points = _hermite(chord, control, t)  # (P, 3)
    waves, amplitude, phase = (
        rng.uniform(12, 25, 3),
        rng.uniform(0, 0.6 * variability, 3),
        rng.uniform(0, 2 * np.pi, 3),
    )
    fade = np.minimum(1, np.minimum(t, chord[-1] - t) / 5)[:, None]
    points = points + fade * amplitude * np.sin(2 * np.pi * t[:, None] / waves + phase)
    uneven = 1 + 0.05 * variability * np.sin(
        2 * np.pi * t / rng.uniform(8, 20) + rng.uniform(0, 2 * np.pi)
    )
    return Tube(
        name,
        points,
        np.interp(t, [0, chord[-1]], ends * np.exp(rng.normal(0, 0.06 * variability))) * uneven,
    )


def _hermite(knots: np.ndarray, values: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Smooth curve through `values` (K, 3) at `knots` (K,), evaluated at `t` (P,): cubic Hermite with central differences as slopes."""
    slopes = np.gradient(values, knots, axis=0)
    k = np.clip(np.searchsorted(knots, t, side="right") - 1, 0, len(knots) - 2)
    gap = (knots[k + 1] - knots[k])[:, None]
    u = (t - knots[k])[:, None] / gap
    ends = (1 + 2 * u) * (1 - u) ** 2 * values[k] + u**2 * (3 - 2 * u) * values[k + 1]
    return ends + gap * (u * (1 - u) ** 2 * slopes[k] - u**2 * (1 - u) * slopes[k + 1])


def _smooth_displacement(rng: np.random.Generator, amplitude: float):
    """A slow random displacement of space (mm): what is joined stays joined."""
    waves = rng.normal(0, 2 * np.pi / 90, (4, 3, 3))
    phases, sizes = rng.uniform(0, 2 * np.pi, (4, 3)), rng.normal(0, amplitude / 2, (4, 3))

    def bend(points: np.ndarray) -> np.ndarray:
        return points + (sizes * np.sin(np.einsum("wij,pj->pwi", waves, points) + phases)).sum(1)

    return bend


def _infundibula(rng: np.random.Generator, controls: dict, variability: float) -> tuple[Tube, ...]:
    """Funnel-shaped origins, under 3 mm, of posterior communicating and ophthalmic arteries: look-alikes."""
    cones = []
    for name in ("L PCom", "R PCom", "L ophthalmic", "R ophthalmic"):
        origin, towards = controls[name][2][:2]
        direction, length, drawn = _unit(towards - origin), rng.uniform(2.8, 3.8), rng.random()
        if drawn < 0.12 * variability:
            steps = np.array([0.3, 0.7, 1.0])[:, None]
            cones.append(
                Tube("infundibulum", origin + direction * length * steps, np.array([1.3, 0.9, 0.5]))
            )
    return tuple(cones)


def _loops(rng: np.random.Generator, arteries: dict, variability: float) -> tuple[Tube, ...]:
    """Cortical branches that curl beside the distal middle, anterior and posterior cerebral arteries: look-alikes."""
    loops = []
    for name in ("M2 superior", "M2 inferior", "callosomarginal", "P2"):
        for side in "LR":
            course, angles = arteries[f"{side} {name}"].points, np.linspace(0, rng.uniform(3, 5), 8)
            start, size, plane = (
                course[rng.integers(len(course) // 2, len(course))],
                rng.uniform(2.5, 5),
                rng.normal(size=(2, 3)),
            )
            u = _unit(plane[0])
            v = _unit(plane[1] - plane[1] @ u * u)
            circle = start + size * (
                (np.cos(angles) - 1)[:, None] * u + np.sin(angles)[:, None] * v
            )
            if rng.random() < 0.6 * variability:
                loops.append(Tube("loop", circle, np.linspace(0.8, 0.55, 8)))
    return tuple(loops)


def _calcifications(rng: np.random.Generator, arteries: dict, variability: float) -> np.ndarray:
    """Specks on the walls of the carotid siphons and in the pineal gland and choroid plexus: (K, 4)."""
    spots = [np.array([0, 36, 21, rng.uniform(1, 2)])] + [
        np.array([side * 22, 42, 27, rng.uniform(1, 2.5)]) for side in (-1, 1)
    ]
    for side in "LR":
        siphon = arteries[f"{side} ICA"]
        for k in rng.integers(
            len(siphon.points) // 2, len(siphon.points) - 4, rng.poisson(1.2 * variability)
        ):
            wall = siphon.points[k] + _unit(rng.normal(size=3)) * siphon.radii[k]
            spots.append(np.append(wall, rng.uniform(0.5, 1.0)))
    return np.array(spots)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
