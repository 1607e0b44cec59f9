"""The seven body parts as simple bones, in centimetres of an adult.

Dimensions are rounded from what anatomy atlases give for adults; bows, angles and bends vary per
study. :mod:`mura.phantom.skeleton` says where x, y and z point.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mura.phantom.shapes import ROUNDING, Ellipsoid, Shaft, quadric, rotation
from mura.phantom.skeleton import Anatomy, Joint


def _v(*values: float) -> np.ndarray:
    return np.array(values, float)


def _shaft(start: tuple, end: tuple, radii: tuple, cortex: float = 0.2, **more) -> Shaft:
    return Shaft(_v(*start), _v(*end), radii, cortex, **more)


# Per ray from thumb to little finger: direction in degrees from the hand's axis, base of the
# metacarpal (x, y), lengths of metacarpal and phalanges, and a width factor.
_RAYS = (
    (-38.0, (-2.35, 1.35), (4.5, 3.0, 2.2), 1.1),
    (-9.0, (-1.3, 1.95), (6.8, 3.9, 2.3, 1.7), 1.0),
    (-1.0, (-0.15, 2.05), (6.6, 4.4, 2.8, 1.8), 1.0),
    (6.0, (0.9, 1.95), (5.9, 4.0, 2.6, 1.8), 0.92),
    (15.0, (1.8, 1.7), (5.4, 3.2, 1.9, 1.6), 0.85),
)
# Carpal bones: centre (x, y), half axes, and the first axis' degrees from x.
_CARPALS = (
    ((-1.4, -0.25), (0.7, 1.12), 28),  # scaphoid
    ((-0.1, -0.6), (0.84, 0.68), -12),  # lunate
    ((1.1, -0.25), (0.76, 0.58), 38),  # triquetrum
    ((1.45, -0.05), (0.35, 0.4), 0),  # pisiform, in front of the triquetrum
    ((-2.05, 0.95), (0.66, 0.58), 35),  # trapezium
    ((-1.15, 1.35), (0.5, 0.55), 0),  # trapezoid
    ((-0.2, 0.95), (0.62, 1.08), 0),  # capitate
    ((0.92, 0.95), (0.62, 0.95), -22),  # hamate
)


def _ray(anatomy: Anatomy, index: int, random: np.random.Generator, sites: bool) -> None:
    degrees, base, lengths, width = _RAYS[index]
    angle = np.radians(degrees + random.normal(0, 1.5))
    bend = random.uniform(0.0, 0.25)  # fingers curl towards the palm
    position = _v(*base, random.uniform(-0.2, 0.2))
    for segment, length in enumerate(lengths):
        direction = _v(np.sin(angle), np.cos(angle) * np.cos(bend), np.sin(bend))
        middle = (0.40, 0.36, 0.30, 0.24)[segment] * width
        first, last = (1.75, 1.75, 1.7, 1.8)[segment], (1.65, 1.4, 1.35, 1.45)[segment]
        # bones stop short of the joint by their rounded ends and half its space
        near = position + direction * (ROUNDING * middle * first + 0.06)
        far = position + direction * (length - ROUNDING * middle * last - 0.06)
        radii = (middle * first, middle, middle * last)
        bone = Shaft(near, far, radii, 0.45 * middle, bow=_v(0, 0, -0.1), flare=2.6)
        anatomy.bone(bone, site=sites)
        end = position + direction * length
        if segment < len(lengths) - 1:
            anatomy.joints.append(Joint(end, direction, middle * 1.6))
        # fingers are round; around the metacarpals their flesh is one palm
        thickness = (1.55, 0.85, 0.8, 0.72)[segment] * width
        radii = (thickness * 1.05, thickness, thickness * (0.9 if segment else 0.7))
        anatomy.flesh(position, end, radii, 1.0 if segment else 0.75)
        position = end
        angle -= np.radians(random.normal(0, 2.0)) + np.radians(degrees) * 0.12
        bend += random.uniform(0.0, 0.15)


def _carpals(anatomy: Anatomy, random: np.random.Generator, x0: float = 0, y0: float = 0) -> None:
    for (x, y), (a, b), degrees in _CARPALS:
        centre = _v(x0 + x, y0 + y, 0) + random.normal(0, 1, 3) * (0.03, 0.03, 0.12)
        turn = rotation(2, np.radians(degrees))
        anatomy.bone(Ellipsoid(centre, turn @ np.diag([a**2, b**2, 0.5]) @ turn.T, 0.1))


def _distal_forearm(anatomy: Anatomy, length: float, projection: str, sites: bool = True) -> None:
    """Radius and ulna below the wrist joint at y = -1.4."""
    broad = 1.1 if projection == "lateral" else 1.5
    end = -1.45 - ROUNDING * broad
    anatomy.bone(
        _shaft((-0.8, end - length, 0), (-0.75, end, 0), (0.75, 0.72, broad), 0.25, flare=4.5),
        Ellipsoid.of((-1.95, -1.75, 0), (0.35, 0.6, 0.5)),  # styloid process
        site=sites,
    )
    anatomy.bone(
        _shaft((1.2, -1.9 - length, 0.1), (1.25, -2.0, 0.1), (0.62, 0.58, 0.85), 0.22, flare=6),
        Ellipsoid.of((1.7, -1.65, 0.1), (0.2, 0.45, 0.3)),
        site=sites,
    )
    anatomy.joint((-0.8, -1.25, 0), 1.5)


def hand(random: np.random.Generator, projection: str) -> Anatomy:
    """Five rays on eight carpal bones."""
    anatomy = Anatomy((22.0, 16.5), _v(-1.2, 7.5, 0.6))
    _distal_forearm(anatomy, 3.5, projection, sites=False)
    _carpals(anatomy, random)
    for index in range(5):
        _ray(anatomy, index, random, sites=True)
    anatomy.flesh((0, -6, 0), (0, 0, 0), (2.7, 2.6, 3.0), 0.7)
    anatomy.flesh((0, -1.5, 0), (0, 4.0, 0), (2.7, 3.1, 2.6), 0.6)
    return anatomy


def finger(random: np.random.Generator, projection: str) -> Anatomy:
    """One to three neighbouring rays, close up."""
    first = int(random.integers(1, 4))
    last = min(4, first + int(random.integers(0, 3)))
    last = first if projection == "lateral" else last  # the others are held out of the beam
    anatomy = Anatomy((13.0, 8.0 + 1.6 * (last - first)), _v(0, 0, 0))
    for index in range(first, last + 1):
        _ray(anatomy, index, random, sites=True)
    tips = np.stack([bone[0].end for bone in anatomy.bones])
    anatomy.centre = _v(tips[:, 0].mean(), tips[:, 1].max() - 5.2, tips[:, 2].mean())
    return anatomy


def wrist(random: np.random.Generator, projection: str) -> Anatomy:
    """Distal forearm, carpal bones and the bases of the metacarpals."""
    anatomy = Anatomy((15.5, 10.5), _v(0, -0.6, 0))
    _distal_forearm(anatomy, 9.0, projection)
    _carpals(anatomy, random)
    for index in range(5):
        _ray(anatomy, index, random, sites=False)
    anatomy.joint((-1.6, 0.75, 0), 0.6, (-0.5, 1, 0))
    anatomy.flesh((0, -12, 0), (0, 0, 0), (3.0, 2.6, 3.1), 0.75)
    anatomy.flesh((0, -1.5, 0), (0, 4.0, 0), (2.7, 3.1, 2.6), 0.6)
    return anatomy


def forearm(random: np.random.Generator, projection: str) -> Anatomy:
    """Radius and ulna with both their ends."""
    anatomy = Anatomy((30.0, 13.0), _v(0, 0, 0))
    bow = random.uniform(0.25, 0.6)
    anatomy.bone(
        _shaft((-1.3, -9.8, 0), (-1.0, 11.2, 0), (1.05, 0.72, 1.55), 0.28, bow=_v(-bow, 0, 0.2),
               flare=6.0),
        Ellipsoid.of((-1.3, -9.9, 0), (1.15, 0.45, 1.1)),
        site=True,
    )  # fmt: skip
    anatomy.bone(
        _shaft((0.8, -10.6, 0.2), (1.35, 11.0, 0), (1.35, 0.72, 0.72), 0.28,
               bow=_v(0.25, 0, -0.1), flare=3.2),
        Ellipsoid.of((0.8, -11.4, -0.9), (1.15, 1.5, 0.8)),  # olecranon
        site=True,
    )  # fmt: skip
    anatomy.bone(
        _shaft((0, -20, 0), (0, -13.2, 0), (1.1, 1.1, 2.3), 0.3, flare=2.0, depth=0.8),
        Ellipsoid.of((0, -12.2, 0), (2.4, 0.9, 1.0)),
        Ellipsoid.of((-2.2, -13.2, 0), (0.7, 0.8, 0.6)),
        Ellipsoid.of((2.3, -13.2, 0), (0.8, 0.9, 0.6)),
    )
    _carpals(anatomy, random, -0.2, 13.6)
    anatomy.joint((-0.9, 12.0, 0), 1.4)
    anatomy.joint((0, -11.1, 0), 2.2)
    anatomy.flesh((0, -16, 0), (0, -9, 0), (4.6, 4.3, 4.7))
    anatomy.flesh((0, -10, 0), (0, 12, 0), (4.7, 4.0, 2.7), 0.8)
    anatomy.flesh((0, 10, 0), (0, 17, 0), (2.7, 2.9, 3.4), 0.6)
    return anatomy


def elbow(random: np.random.Generator, projection: str) -> Anatomy:
    """Distal humerus, proximal radius and ulna; bent in lateral views."""
    anatomy = Anatomy((17.0, 13.0), _v(0, 0.5, 0))
    broad = 1.35 if projection == "lateral" else 2.3
    anatomy.bone(
        _shaft((0, -12, 0), (0, -0.2 - ROUNDING * broad, 0), (1.2, 1.1, broad), 0.32, flare=3.0,
               depth=0.75),
        Ellipsoid.of((2.55, -1.1, 0), (0.75, 0.95, 0.7)),  # medial epicondyle
        Ellipsoid.of((-2.25, -1.0, 0), (0.6, 0.85, 0.6)),  # lateral epicondyle
        Ellipsoid.of((0.9, -0.1, 0.2), (1.4, 0.95, 1.15)),  # trochlea
        Ellipsoid.of((-1.3, -0.1, 0.3), (0.95, 0.95, 1.05)),  # capitellum
        site=True,
    )  # fmt: skip
    bend = random.uniform(1.3, 1.6) if projection == "lateral" else random.uniform(0.0, 0.2)
    bent = rotation(0, bend)  # the forearm about the joint's axis
    anatomy.bone(
        Shaft(bent @ (-1.3, 1.7, 0.2), bent @ (-0.9, 13, 0), (0.95, 0.7, 0.75), 0.26, flare=7.0),
        Ellipsoid(bent @ (-1.3, 1.45, 0.2), quadric((1.15, 0.5, 1.1), bent)),  # head of the radius
        site=True,
    )
    anatomy.bone(
        Shaft(bent @ (0.9, 1.85, 0.1), bent @ (1.0, 13, 0), (1.35, 0.75, 0.65), 0.26, flare=3.0),
        Ellipsoid(bent @ (0.9, 0.5, -1.0), quadric((1.1, 2.0, 0.75), bent)),  # olecranon
        site=True,
    )
    anatomy.joint((0.9, 0.95, 0.1), 1.4)
    anatomy.joint(bent @ (-1.3, 0.95, 0.2), 1.0)
    anatomy.flesh((0, -13, 0), (0, 0.5, 0), (4.4, 4.1, 4.3))
    anatomy.flesh(bent @ (0, 0, 0), bent @ (0, 13, 0), (4.2, 4.2, 3.5))
    return anatomy


def humerus(random: np.random.Generator, projection: str) -> Anatomy:
    """Build the upper arm with both ends."""
    anatomy = Anatomy((34.0, 15.0), _v(0.3, -0.5, 0))
    bow = random.uniform(-0.3, 0.3)
    broad = 1.4 if projection == "lateral" else 2.3
    anatomy.bone(
        _shaft((0, -12.5, 0), (0, 13.0, 0), (1.9, 1.15, broad), 0.36, bow=_v(bow, 0, 0), flare=4.0,
               depth=0.9),
        Ellipsoid.of((1.1, -14.0, 0.2), (2.2, 2.2, 2.2), 0.14),  # head
        Ellipsoid.of((-1.2, -13.4, 0), (1.1, 1.6, 1.2), 0.14),  # greater tubercle
        Ellipsoid.of((2.5, 13.4, 0), (0.8, 1.0, 0.7)),
        Ellipsoid.of((-2.2, 13.6, 0), (0.6, 0.8, 0.6)),
        Ellipsoid.of((0, 14.5, 0.2), (2.2, 0.9, 1.1)),
        site=True,
    )  # fmt: skip
    anatomy.bone(
        Ellipsoid.of((4.1, -13.6, -0.5), (0.6, 1.9, 1.2)),
        _shaft((4.6, -13.0, -0.8), (6.5, -2.0, -1.5), (0.9, 0.45, 0.5), 0.2),
    )
    anatomy.bone(_shaft((-1.5, -16.9, -0.5), (6.0, -17.6, 0.5), (0.7, 0.5, 0.6), 0.18))
    anatomy.bone(_shaft((1.1, 16.2, 0.3), (1.2, 24, 1.0), (1.3, 0.8, 0.7), 0.26))
    anatomy.bone(_shaft((-1.3, 16.4, 0.3), (-1.0, 24, 1.0), (1.1, 0.7, 0.7), 0.26, flare=6.0))
    anatomy.joint((3.2, -13.8, 0), 1.7, (1, 0, 0))
    anatomy.joint((0, 15.4, 0.2), 2.1)
    anatomy.flesh((0, -15, 0), (0, 14, 0), (5.6, 4.4, 4.4))
    anatomy.flesh((1, -18, 0), (9, -13, 0), (4.5, 5.0, 6.0), 0.8)
    anatomy.flesh((0, 13, 0), (0, 24, 0), (4.3, 4.2, 3.8))
    return anatomy


def shoulder(random: np.random.Generator, projection: str) -> Anatomy:
    """Proximal humerus, scapula, clavicle and the ribs behind them."""
    anatomy = Anatomy((19.0, 19.5), _v(2.6, 0.8, 0))
    outward = random.uniform(-1.5, 0.5)
    anatomy.bone(
        _shaft((-1.2, 1.4, 0), (-2.2 + outward, 15, 0.5), (2.0, 1.25, 1.2), 0.36, flare=3.0),
        Ellipsoid.of((-0.4, -0.4, 0.2), (2.25, 2.3, 2.2), 0.14),  # head
        Ellipsoid.of((-2.3, 0.1, 0), (1.0, 1.6, 1.2), 0.14),  # greater tubercle
        site=True,
    )
    anatomy.bone(
        Ellipsoid.of((2.9, 0.2, -0.4), (0.55, 1.9, 1.2), 0.16),  # glenoid
        Ellipsoid.of((4.0, 0.4, -0.5), (1.2, 1.2, 0.7), 0.12),  # neck
        _shaft((3.6, 1.4, -0.6), (7.0, 10.0, -1.6), (0.75, 0.5, 0.55), 0.2),  # lateral border
        _shaft((4.5, -2.2, -0.8), (9.6, -3.4, -1.5), (0.45, 0.3, 0.35), 0.14),  # upper border
        _shaft((9.6, -3.4, -1.5), (7.2, 10.0, -1.8), (0.4, 0.28, 0.4), 0.14),  # medial border
        Ellipsoid.of((7.0, 2.5, -1.3), (2.6, 5.6, 0.28), 0.06),  # blade
    )
    anatomy.bone(
        _shaft((9.0, -2.3, -1.6), (-0.6, -3.6, -1.2), (0.35, 0.5, 1.0), 0.15, flare=1.5),
        Ellipsoid.of((-0.9, -3.6, -0.6), (1.35, 0.6, 1.2), 0.12),  # acromion
    )
    anatomy.bone(Ellipsoid.of((3.4, -1.9, 1.5), (0.85, 0.8, 0.9), 0.12))  # coracoid process
    anatomy.bone(
        _shaft((0.9, -4.0, 0.3), (14.5, -5.4, 1.5), (0.85, 0.62, 0.9), 0.2,
               bow=_v(0, -0.8, 0.8), flare=2.0, depth=0.8),
        site=True,
    )  # fmt: skip
    for index in range(6):  # ribs
        y = -3.2 + 2.5 * index
        anatomy.bone(
            _shaft((7.2 + 0.25 * index, y + 2.0, -3.0), (17.0, y - 0.8, -2.0), (0.42, 0.42, 0.42),
                   0.12, bow=_v(-0.9, -1.5, 0), depth=0.6)
        )  # fmt: skip
    anatomy.joint((2.15, 0.1, 0), 1.7, (1, 0, 0))
    anatomy.joint((0.45, -3.9, 0), 0.8, (1, 0, 0))
    anatomy.flesh((-1, -1.5, 0), (-2.0 + outward, 15, 0), (4.6, 4.4, 4.3))
    anatomy.flesh((0, -2.0, 0), (13, -1.5, 0), (3.9, 4.6, 5.5), 0.9)
    anatomy.flesh((9.5, 1.0, 0), (11.5, 15, 0), (6.5, 7.0, 7.0), 0.42)  # chest: mostly air
    return anatomy


BUILDERS: dict[str, Callable[[np.random.Generator, str], Anatomy]] = {
    f"XR_{build.__name__.upper()}": build
    for build in (elbow, finger, forearm, hand, humerus, shoulder, wrist)
}
