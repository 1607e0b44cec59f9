"""What an anatomy is made of: bones, joints, soft tissue, and where findings may be.

Lengths are centimetres. x points to the body's midline or away from it, y from the trunk to the
fingertips, z along the beam of a frontal view.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mura.phantom.shapes import SOFT_TISSUE, Shaft, Shape


@dataclass
class Joint:
    """Where two bones meet: degeneration happens here."""

    centre: np.ndarray  # [3]
    across: np.ndarray  # [3] unit vector from one bone to the other
    radius: float  # half width of the joint's surface


@dataclass
class Anatomy:
    """The body part that all views of one study show."""

    field_of_view: tuple[float, float]  # height and width in cm
    centre: np.ndarray  # [3], of the field of view
    bones: list[list[Shape]] = field(default_factory=list)  # parts of a bone do not add up
    soft: list[Shaft] = field(default_factory=list)
    sites: list[tuple[int, int]] = field(default_factory=list)  # shafts that findings choose from
    joints: list[Joint] = field(default_factory=list)

    def bone(self, *parts: Shape, site: bool = False) -> None:
        """Add a bone; ``site``: whether findings and growth plates may be in its first part."""
        if site:
            self.sites.append((len(self.bones), 0))
        self.bones.append(list(parts))

    def joint(self, centre: tuple, radius: float, across: tuple = (0, 1, 0)) -> None:
        """Add a joint."""
        direction = np.array(across, float) / np.linalg.norm(across)
        self.joints.append(Joint(np.array(centre, float), direction, radius))

    def flesh(self, start: tuple, end: tuple, radii: tuple, depth: float = 1.0) -> None:
        """Add soft tissue around an axis."""
        ends = np.array(start, float), np.array(end, float)
        self.soft.append(Shaft(*ends, radii, flare=1.5, depth=depth, density=SOFT_TISSUE))
