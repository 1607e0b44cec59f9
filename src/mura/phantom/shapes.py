"""Shapes that the anatomy is made of, and the length of the beam's path through them.

Lengths are centimetres. The beam runs along z; an image's x points right and y down. Each shape
gives its attenuation (optical depth, the exponent in Beer-Lambert's law) on a grid of image
points in closed form, so nothing is sampled along the beam.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

# Attenuation per cm at about 60 kV, relative to each other roughly as ICRU cortical bone, red and
# yellow marrow with trabeculae, soft tissue and steel; absolute values are set for the display.
CORTEX, TRABECULAR, FATTY_MARROW, SOFT_TISSUE, METAL = 1.0, 0.32, 0.14, 0.19, 6.0
# Length of a shaft's rounded end, beyond its axis, as a share of its radius: bones end flatter
# than a half sphere.
ROUNDING = 0.6


def rotation(axis: int, angle: float) -> np.ndarray:
    """Return the matrix [3, 3] that turns points about x, y or z (0, 1, 2) by radians."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def quadric(axes: np.ndarray | tuple, turn: np.ndarray) -> np.ndarray:
    """Return an ellipsoid's matrix [3, 3] for half axes along the columns of ``turn``."""
    return turn @ np.diag(np.array(axes, float) ** 2) @ turn.T


@dataclass(frozen=True)
class Fracture:
    """A break across a shaft, or (smooth, without displacement) an open growth plate."""

    at: float  # share of the shaft's length
    slope: float  # of the break across the shaft, 0 transverse
    gap: float  # width, cm
    step: float  # sideways displacement of the far part, cm
    angle: float  # of the far part, radians
    depth: float = 0.85  # share of the attenuation that the gap takes away
    jagged: float = 0.0  # amplitude of the break's teeth, cm
    phase: float = 0.0
    border: float = 0.0  # sclerotic lips beside the gap, as a share


@dataclass(frozen=True)
class Shaft:
    """A tapered, slightly bowed, hollow tube with rounded ends: a long bone, or solid metal."""

    start: np.ndarray  # [3]
    end: np.ndarray  # [3]
    radii: tuple[float, float, float]  # at the start, in the middle, at the end
    cortex: float = 0.2  # thickness of the wall in the middle; ends are thinner
    bow: np.ndarray = field(default_factory=lambda: np.zeros(3))  # the middle's displacement
    flare: float = 3.0  # how late the middle widens into the ends
    depth: float = 1.0  # thickness along the beam relative to a round tube
    density: float | None = None  # solid: attenuation per cm
    fracture: Fracture | None = None

    def moved(self, rotation: np.ndarray, about: np.ndarray) -> Shaft:
        """Return the shape after a rotation about a point, which becomes the origin."""
        start, end = rotation @ (self.start - about), rotation @ (self.end - about)
        return replace(self, start=start, end=end, bow=rotation @ self.bow)

    def point(self, share: float) -> np.ndarray:
        """Return the axis point at a share of the length, [3]."""
        return self.start + (self.end - self.start) * share + self.bow * 4 * share * (1 - share)

    def radius(self, share: np.ndarray | float) -> np.ndarray | float:
        """Return the outer radius at a share of the length."""
        first, middle, last = self.radii
        near = np.maximum(0.0, 1 - 2 * share) ** self.flare
        far = np.maximum(0.0, 2 * share - 1) ** self.flare
        return middle + (first - middle) * near + (last - middle) * far

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest image point it may reach."""
        reach = max(self.radii) + float(np.abs(self.bow[:2]).max())
        if self.fracture is not None:
            reach += abs(self.fracture.step) + abs(self.fracture.angle) * 3 + 0.2
        ends = np.stack([self.start[:2], self.end[:2]])
        return ends.min(axis=0) - reach, ends.max(axis=0) + reach

    def attenuation(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the optical depth at image points, [rows, columns] of float32."""
        axis = self.end - self.start
        length = float(np.hypot(*axis[:2]))
        if length < 0.05:  # seen end-on
            axis, length = np.array([0.05, 0.0, axis[2]]), 0.05
        # A tube that is tilted along the beam is crossed obliquely; end-on it would be endless.
        tilt = min(float(np.linalg.norm(axis)) / length, 2.0)
        ex, ey = float(axis[0]) / length, float(axis[1]) / length
        dx, dy = x - np.float32(self.start[0]), y - np.float32(self.start[1])
        along, across = dx * ex + dy * ey, dy * ex - dx * ey
        share = np.clip(along / length, 0, 1)
        bow = float(self.bow[1]) * ex - float(self.bow[0]) * ey
        across = across - bow * 4 * share * (1 - share)
        factor = 1
        if self.fracture is not None:
            across, factor = self._broken(along, across, length)
        beyond = (along - share * length) / ROUNDING
        distance, radius = across**2 + beyond**2, self.radius(share)
        outer = np.sqrt(np.maximum(radius**2 - distance, 0))
        if self.density is not None:
            depth = self.density * outer
        else:
            middle = 1 - (2 * share - 1) ** 2
            wall = self.cortex * (0.3 + 0.7 * middle)
            inner = np.sqrt(np.maximum(np.maximum(radius - wall, 0) ** 2 - distance, 0))
            marrow = TRABECULAR + (FATTY_MARROW - TRABECULAR) * middle
            depth = CORTEX * (outer - inner) + marrow * inner
        return 2 * self.depth * tilt * depth * factor

    def _broken(
        self, along: np.ndarray, across: np.ndarray, length: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Displace the far side of the break, and say what share of the bone is left."""
        break_ = self.fracture
        teeth = np.sin(across * 9 + break_.phase) + 0.6 * np.sin(across * 21 + 2.3 * break_.phase)
        past = along - break_.at * length - break_.slope * across - break_.jagged * teeth
        # The displacement fades within a few cm, so that the next joint stays where it is.
        near = np.exp(-np.maximum(past, 0) / 1.6) * (past > 0)
        shift = near * (break_.step + np.tan(break_.angle) * np.maximum(past, 0))
        line = np.exp(-((past / break_.gap) ** 2))
        factor = 1 - break_.depth * line
        if break_.border:
            factor += break_.border * (np.exp(-((past / (2.6 * break_.gap)) ** 2)) - line)
        return across - shift, factor


@dataclass(frozen=True)
class Ellipsoid:
    """A rounded bone (carpal, condyle, head), or a solid lump of a given density."""

    centre: np.ndarray  # [3]
    shape: np.ndarray  # [3, 3], the ellipsoid's matrix: eigenvalues are squared half axes
    cortex: float = 0.12
    density: float | None = None

    @classmethod
    def of(
        cls, centre: tuple, axes: tuple, cortex: float = 0.12, density: float | None = None
    ) -> Ellipsoid:
        """Return an ellipsoid with half axes along x, y, z."""
        return cls(np.array(centre, float), np.diag(np.array(axes, float) ** 2), cortex, density)

    def moved(self, rotation: np.ndarray, about: np.ndarray) -> Ellipsoid:
        """Return the shape after a rotation about a point, which becomes the origin."""
        centre, shape = rotation @ (self.centre - about), rotation @ self.shape @ rotation.T
        return replace(self, centre=centre, shape=shape)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest image point it reaches."""
        reach = np.sqrt(np.diag(self.shape)[:2])
        return self.centre[:2] - reach, self.centre[:2] + reach

    def attenuation(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the optical depth at image points, [rows, columns] of float32."""
        flat = np.linalg.inv(self.shape[:2, :2])
        half = float(1 / np.sqrt(np.linalg.inv(self.shape)[2, 2]))  # along the beam, at the centre
        dx, dy = x - np.float32(self.centre[0]), y - np.float32(self.centre[1])
        a, b, c = float(flat[0, 0]), float(flat[0, 1]), float(flat[1, 1])
        q = a * dx**2 + 2 * b * dx * dy + c * dy**2
        outer = np.sqrt(np.maximum(1 - q, 0)) * half
        if self.density is not None:
            return 2 * self.density * outer
        inside = max(1 - self.cortex / float(np.sqrt(np.linalg.eigvalsh(self.shape)[0])), 0.05)
        inner = np.sqrt(np.maximum(inside**2 - q, 0)) * half
        return 2 * (CORTEX * (outer - inner) + TRABECULAR * inner)


@dataclass(frozen=True)
class Spot:
    """A region in which bone is thinned (lytic) or thickened (sclerotic), with a soft edge."""

    region: Ellipsoid
    factor: float  # of the bone's attenuation in the middle
    rim: float = 0.0  # sclerotic border, as a share
    phase: float = 0.0  # of the outline's irregularity

    def moved(self, rotation: np.ndarray, about: np.ndarray) -> Spot:
        """Return the region after a rotation about a point, which becomes the origin."""
        return replace(self, region=self.region.moved(rotation, about))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest image point it reaches."""
        low, high = self.region.bounds()
        return low - (high - low) * 0.4, high + (high - low) * 0.4

    def attenuation(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the factor to multiply the bone's attenuation by, [rows, columns]."""
        flat = np.linalg.inv(self.region.shape[:2, :2])
        dx, dy = x - np.float32(self.region.centre[0]), y - np.float32(self.region.centre[1])
        a, b, c = float(flat[0, 0]), float(flat[0, 1]), float(flat[1, 1])
        radius = np.sqrt(a * dx**2 + 2 * b * dx * dy + c * dy**2)
        turn = np.arctan2(dy, dx)
        radius = radius * (1 + 0.14 * np.sin(3 * turn + self.phase) + 0.07 * np.sin(7 * turn))
        inside = 0.5 - 0.5 * np.tanh((radius - 0.85) * 4.5)
        border = np.exp(-(((radius - 1.08) / 0.14) ** 2))
        return 1 + (self.factor - 1) * inside + self.rim * border


Shape = Shaft | Ellipsoid
