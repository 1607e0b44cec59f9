"""Findings as radiologists name them, and normal variants that look like them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mura.phantom.shapes import METAL, Ellipsoid, Fracture, Shaft, Shape, Spot, quadric
from mura.phantom.skeleton import Anatomy, Joint

# Shares of the abnormal studies. Hardware is frequent in MURA and the easiest to see; the four
# kinds are those its paper names (arXiv 1712.06957, section 4: hardware, fracture, degenerative
# joint disease, "lesions").
FINDINGS = {"fracture": 0.28, "hardware": 0.36, "degeneration": 0.18, "lesion": 0.18}
# Shares of *all* studies, normal and abnormal alike, so that a variant tells nothing.
VARIANTS = {"": 0.68, "growth plate": 0.14, "nutrient canal": 0.12, "bone island": 0.06}
# A view of an abnormal study that does not show the finding (hidden or projected away).
HIDDEN_VIEWS = 0.12


@dataclass
class Change:
    """What a finding or a variant does to an anatomy."""

    fractures: dict[tuple[int, int], Fracture] = field(default_factory=dict)
    added: list[Shape] = field(default_factory=list)  # their attenuation comes on top
    spots: list[Spot] = field(default_factory=list)  # factors on the bones' attenuation


def draw(kind: str, anatomy: Anatomy, random: np.random.Generator) -> Change:
    """Draw a finding or variant; it follows from the anatomy and the generator's state."""
    return {
        "fracture": _fracture,
        "hardware": _hardware,
        "degeneration": _degeneration,
        "lesion": _lesion,
        "growth plate": _growth_plate,
        "nutrient canal": _nutrient_canal,
        "bone island": _bone_island,
    }[kind](anatomy, random)


def _site(anatomy: Anatomy, random: np.random.Generator) -> tuple[tuple[int, int], Shaft]:
    """Choose a shaft whose middle lies well inside the field of view."""
    shafts = {(bone, part): anatomy.bones[bone][part] for bone, part in anatomy.sites}
    inside = [key for key in shafts if _is_shown(anatomy, shafts[key].point(0.5), 0.48, 0.6)]
    key = (inside or anatomy.sites)[int(random.integers(len(inside or anatomy.sites)))]
    return key, shafts[key]


def _is_shown(anatomy: Anatomy, place: np.ndarray, high: float, wide: float) -> bool:
    """Whether a place lies within these shares of the field of view, to either side."""
    height, width = anatomy.field_of_view
    x, y, _ = np.abs(place - anatomy.centre)
    return y < high * height and x < wide * width


def _visible_share(anatomy: Anatomy, shaft: Shaft, random: np.random.Generator) -> float:
    """Choose a place along a shaft that the field of view shows."""
    shares, high = np.linspace(0.12, 0.9, 40), 0.38 * anatomy.field_of_view[0]
    shown = [s for s in shares if abs(shaft.point(s)[1] - anatomy.centre[1]) < high]
    return float(random.choice(shown or shares))


def _frame(shaft: Shaft, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return unit vectors along a shaft and across it, the second in a random direction."""
    along = (shaft.end - shaft.start) / np.linalg.norm(shaft.end - shaft.start)
    angle = random.uniform(0, 2 * np.pi)
    guess = np.array([np.cos(angle), 0.0, np.sin(angle)])
    across = guess - along * (guess @ along)
    across /= np.linalg.norm(across)
    return along, across, np.cross(along, across)


def _clear(anatomy: Anatomy) -> float:
    """Return the half width, cm, below which a detail of this view is lost at 112 pixels."""
    return 0.008 * anatomy.field_of_view[0]


def _fracture(anatomy: Anatomy, random: np.random.Generator) -> Change:
    key, shaft = _site(anatomy, random)
    at = _visible_share(anatomy, shaft, random)
    radius = float(shaft.radius(at))
    side = float(random.choice([-1.0, 1.0]))
    size = radius + 0.35
    slope = random.uniform(-1.1, 1.1)
    gap = max(random.uniform(0.18, 0.3) * size, 1.5 * _clear(anatomy))
    step = side * random.uniform(0.5, 1.1) * radius
    angle, phase = side * random.uniform(0.25, 0.8), random.uniform(0, 6.3)
    border = float(random.choice([0.0, 0.35]))  # impacted or healing: dense beside the gap
    broken = Fracture(at, slope, gap, step, angle, 0.95, 0.06 * size, phase, border)
    change = Change({key: broken})
    along, across, _ = _frame(shaft, random)
    for _ in range(int(random.integers(0, 3))):  # fragments
        where = shaft.point(at) + across * side * radius * random.uniform(0.9, 1.4)
        where = where + along * random.uniform(-0.5, 0.5)
        change.added.append(Ellipsoid.of(where, random.uniform(0.1, 0.28, 3) * size, density=0.6))
    return change


def _hardware(anatomy: Anatomy, random: np.random.Generator) -> Change:
    _, shaft = _site(anatomy, random)
    at = _visible_share(anatomy, shaft, random)
    frame = along, across, aside = _frame(shaft, random)
    radius = float(shaft.radius(0.5))
    kind = random.choice(["plate", "pins", "nail"], p=[0.55, 0.3, 0.15])
    if kind == "plate":
        turn = np.stack(frame, axis=1)
        return Change(added=_plate(shaft, at, turn, 1.4 * _clear(anatomy), random))
    if kind == "nail":
        reach = along * (0.42 * float(np.linalg.norm(shaft.end - shaft.start)))
        return Change(added=[_pin(shaft.point(0.5), reach, 0.38 * radius)])
    change = Change()
    for _ in range(int(random.integers(1, 4))):
        lean = along * random.uniform(0.5, 1.6) + across * random.uniform(-1, 1)
        lean = lean + aside * random.uniform(-0.5, 0.5)
        lean /= np.linalg.norm(lean)
        half = random.uniform(1.2, 2.2) * (radius + 0.6)
        middle = shaft.point(at) + along * random.uniform(-0.4, 0.4)
        thick = max(0.09 + 0.05 * radius, 1.3 * _clear(anatomy))
        change.added.append(_pin(middle, lean * half, thick))
    return change


def _pin(middle: np.ndarray, reach: np.ndarray, thick: float) -> Shaft:
    return Shaft(middle - reach, middle + reach, (thick,) * 3, density=METAL)


def _plate(
    shaft: Shaft, at: float, turn: np.ndarray, thin: float, random: np.random.Generator
) -> list[Shape]:
    """Return a plate on the bone's surface, one link and one screw per hole."""
    across = turn[:, 1]
    length, radius = float(np.linalg.norm(shaft.end - shaft.start)), float(shaft.radius(0.5))
    width, thickness = 0.25 + 0.2 * radius, max(0.07 + 0.08 * radius, thin)
    pitch = 0.55 + 0.55 * radius
    holes = int(np.clip(random.integers(4, 8), 3, max(3, 0.75 * length / pitch)))
    start = np.clip(at * length - holes * pitch / 2, 0, max(0.0, length - holes * pitch))
    parts: list[Shape] = []
    for hole in range(holes):
        share = float((start + (hole + 0.5) * pitch) / length)
        middle = shaft.point(share)
        surface = middle + across * (float(shaft.radius(share)) + thickness)
        link = quadric((0.66 * pitch, thickness, width), turn)
        parts.append(Ellipsoid(surface, link, density=METAL))
        if random.uniform() < 0.85:
            deep = surface - across * (2 * float(shaft.radius(share)) + 2 * thickness)
            thick = max(0.07 + 0.06 * radius, 0.7 * thin)
            parts.append(Shaft(surface, deep, (1.6 * thick, thick, thick), density=METAL))
    return parts


def _degeneration(anatomy: Anatomy, random: np.random.Generator) -> Change:
    shown = [joint for joint in anatomy.joints if _is_shown(anatomy, joint.centre, 0.42, 0.42)]
    joints = shown or anatomy.joints
    worst = joints[int(random.integers(len(joints)))]

    def distance(joint: Joint) -> float:
        return float(np.linalg.norm(joint.centre - worst.centre))

    change = Change()
    for joint in sorted(joints, key=distance)[: 1 + int(random.integers(0, 2))]:
        if distance(joint) < 5.0:  # neighbours wear together
            _wear(change, joint, random)
    return change


def _wear(change: Change, joint: Joint, random: np.random.Generator) -> None:
    """Narrow a joint: dense bone on both sides, little of the gap, spurs at the margins."""
    normal, radius = joint.across, joint.radius
    lateral = np.cross(normal, [0.0, 0.0, 1.0])
    lateral /= np.linalg.norm(lateral)
    turn = np.stack([normal, lateral, np.cross(lateral, normal)], axis=1)

    def lump(where: np.ndarray, axes: tuple, density: float) -> None:
        change.added.append(Ellipsoid(where, quadric(axes, turn), density=density))

    lump(joint.centre, (0.2 * radius + 0.08, 0.85 * radius, 0.8 * radius), 0.45)
    for side in (-1, 1):
        band = joint.centre + normal * side * (0.28 * radius + 0.1)
        lump(band, (0.2 * radius, radius, 0.8 * radius), random.uniform(0.5, 0.8))
        for edge in (-1, 1):
            if random.uniform() < 0.8:
                spur = joint.centre + lateral * edge * 1.12 * radius + normal * side * 0.2 * radius
                size = radius * random.uniform(0.2, 0.4)
                lump(spur, (0.7 * size, size, size), 0.9)


def _lesion(anatomy: Anatomy, random: np.random.Generator) -> Change:
    _, shaft = _site(anatomy, random)
    at = _visible_share(anatomy, shaft, random)
    radius = float(shaft.radius(at))
    frame = _frame(shaft, random)
    where = shaft.point(at) + frame[1] * radius * random.uniform(0, 0.5)
    size = max(radius + 0.15, 2.5 * _clear(anatomy))
    axes = np.array([random.uniform(0.9, 1.7), random.uniform(0.7, 1.0), 0.9]) * size
    region = Ellipsoid(where, quadric(axes, np.stack(frame, axis=1)))
    phase = random.uniform(0, 6.3)
    lytic = random.uniform() < 0.6
    factor, rim = (random.uniform(0.08, 0.25), 0.3) if lytic else (random.uniform(2.3, 3.2), 0.0)
    return Change(spots=[Spot(region, factor, rim, phase)])


def _growth_plate(anatomy: Anatomy, random: np.random.Generator) -> Change:
    """Open plates: smooth bright-bordered lines across the ends of several shafts."""
    change = Change()
    for bone, part in anatomy.sites:
        if random.uniform() < 0.75:
            at, slope = float(random.choice([0.07, 0.93])), random.normal(0, 0.05)
            gap = 0.05 + 0.03 * float(anatomy.bones[bone][part].radius(0.93))
            plate = Fracture(at, slope, gap, step=0.0, angle=0.0, depth=0.6, border=0.3)
            change.fractures[bone, part] = plate
    return change


def _nutrient_canal(anatomy: Anatomy, random: np.random.Generator) -> Change:
    """Draw a thin oblique lucent line in the wall near the middle of a shaft."""
    _, shaft = _site(anatomy, random)
    radius = float(shaft.radius(0.5))
    along, across, aside = _frame(shaft, random)
    where = shaft.point(random.uniform(0.4, 0.6)) + across * 0.75 * radius
    lean = along + 0.35 * across
    turn = np.stack([lean / np.linalg.norm(lean), across, aside], axis=1)
    axes = (0.9 * radius + 0.2, 0.06 + 0.04 * radius, 0.3)
    return Change(spots=[Spot(Ellipsoid(where, quadric(axes, turn)), 0.45)])


def _bone_island(anatomy: Anatomy, random: np.random.Generator) -> Change:
    """Draw a small dense round spot, well inside a bone: harmless."""
    _, shaft = _site(anatomy, random)
    at = _visible_share(anatomy, shaft, random)
    size = 0.1 + 0.13 * float(shaft.radius(at))
    return Change(spots=[Spot(Ellipsoid.of(shaft.point(at), (size,) * 3), 1.9)])


def applied(bones: list[list[Shape]], changes: list[Change]) -> list[list[Shape]]:
    """Return the bones with the changes' breaks in them."""
    result = [list(parts) for parts in bones]
    for change in changes:
        for (bone, part), break_ in change.fractures.items():
            result[bone][part] = replace(result[bone][part], fracture=break_)
    return result
