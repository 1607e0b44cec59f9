"""From shapes to a radiograph: the beam, the detector, the display and the surroundings."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mura.phantom import findings
from mura.phantom.anatomy import BUILDERS
from mura.phantom.shapes import Shape, Spot, rotation

# Degrees about the limb's long axis. A scapular "Y" takes the place of a shoulder's lateral, and
# a hand is not quite on edge, because both would hide everything behind something else.
_TURN = {"frontal": 0.0, "oblique": 40.0, "lateral": 88.0}
_LATERAL = {"XR_SHOULDER": 52.0, "XR_HAND": 66.0}

LYING = 0.08  # share of views with the limb across the image
INVERTED = 0.06  # share of views with white background, as a few of MURA's
_SOFT_GRID = 4  # soft tissue is smooth, so it is computed on a grid this much coarser


@dataclass(frozen=True)
class View:
    """A drawn view: uint8[H, W], and the finding's box in pixels (None where it does not show)."""

    image: np.ndarray
    box: tuple[int, int, int, int] | None  # x0, y0, x1, y1; x1 and y1 just outside
    inverted: bool


def render(
    body_part: str,
    projection: str,
    finding: str,
    variant: str,
    study_seed: Sequence[int],
    view_seed: Sequence[int],
) -> View:
    """Draw one view of a study.

    Args:
        body_part: A name of ``manifest.BODY_PARTS``.
        projection: "frontal", "oblique" or "lateral".
        finding: A key of ``findings.FINDINGS``, or "none".
        variant: A key of ``findings.VARIANTS``.
        study_seed: Decides the anatomy and the finding: the same in all views of a study that
            share a projection; in another one a finger's or an elbow's finding may sit in another
            bone. Another study of the same patient shows other bones.
        view_seed: Decides the pose, the exposure and the noise, whatever the finding is.
    """
    anatomy = BUILDERS[body_part](_generator(study_seed, 0), projection)
    pose = _generator(view_seed, 0)
    lying = pose.uniform() < LYING
    turn = _pose(body_part, projection, lying, pose)
    if np.random.default_rng([*study_seed, 3]).uniform() < 0.5:
        turn = np.diag([-1.0, 1.0, 1.0]) @ turn  # the other side of the body
    x, y = _grid(anatomy.field_of_view, body_part, projection, lying, pose)

    def shown(shapes: Iterable) -> list:
        return [shape.moved(turn, anatomy.centre) for shape in shapes]

    variants = [findings.draw(variant, anatomy, _generator(study_seed, 2))] if variant else []
    found = []
    if finding != "none":
        found = [findings.draw(finding, anatomy, _generator(study_seed, 1))]
        for change in variants:  # a shaft breaks once: no growth plate beside a fracture
            for shaft in found[0].fractures:
                change.fractures.pop(shaft, None)

    def bones(with_changes: list[findings.Change]) -> np.ndarray:
        depth = np.zeros((y.size, x.size), np.float32)
        for parts in findings.applied(anatomy.bones, with_changes):
            depth += _union(shown(parts), x, y)
        for window, factor in _drawn(shown(s for each in with_changes for s in each.spots), x, y):
            depth[window] *= factor
        for window, drawn in _drawn(shown(s for each in with_changes for s in each.added), x, y):
            depth[window] += drawn
        return depth

    texture = np.roll(_texture_tile(), pose.integers(0, 512, 2), axis=(0, 1))
    depth = bones(variants + found)
    box = None if finding == "none" else _box(np.abs(depth - bones(variants)))
    depth = depth * texture[: y.size, : x.size] + _soft_tissue(shown(anatomy.soft), x, y)
    image, inverted = _display(depth, _generator(view_seed, 1))
    return View(image, box, inverted)


def _generator(seed: Sequence[int], purpose: int) -> np.random.Generator:
    return np.random.default_rng([*seed, 10 + purpose])


def _pose(body_part: str, projection: str, lying: bool, random: np.random.Generator) -> np.ndarray:
    own = _LATERAL if projection == "lateral" else {}
    turn = np.radians(own.get(body_part, _TURN[projection]) + random.normal(0, 6))
    turn *= random.choice([-1, 1])
    lean = np.radians(random.normal(0, 3))
    spin = np.radians(random.normal(0, 7) + lying * random.choice([-90, 90]))
    # hands and fingers hang down in our coordinates and point up on a radiograph
    up = -1.0 if body_part in ("XR_HAND", "XR_FINGER", "XR_WRIST", "XR_FOREARM") else 1.0
    return rotation(2, spin) @ np.diag([1.0, up, 1.0]) @ rotation(0, lean) @ rotation(1, turn)


def _grid(
    field_of_view: tuple[float, float],
    body_part: str,
    projection: str,
    lying: bool,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image points' x [W] and y [H] in cm (float32)."""
    height, width = field_of_view
    if projection == "lateral" and body_part not in ("XR_ELBOW", "XR_SHOULDER", "XR_HAND"):
        width *= random.uniform(0.62, 0.85)
    height, width = height * random.uniform(0.88, 1.08), width * random.uniform(0.88, 1.12)
    height, width = (width, height) if lying else (height, width)
    longer = 512 if random.uniform() < 0.88 else int(random.integers(320, 512))
    per_cm = longer / max(height, width)
    columns, rows = (max(90, round(side * per_cm)) for side in (width, height))
    offset = random.normal(0, 0.02, 2) * (width, height)
    x = (np.arange(min(columns, longer)) - columns / 2) / per_cm + offset[0]
    y = (np.arange(min(rows, longer)) - rows / 2) / per_cm + offset[1]
    return x.astype(np.float32), y.astype(np.float32)


def _drawn(
    shapes: Sequence[Shape | Spot], x: np.ndarray, y: np.ndarray
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Yield the rows and columns that each shape can reach, and its attenuation there."""
    for shape in shapes:
        low, high = shape.bounds()
        columns = slice(*np.searchsorted(x, [low[0], high[0]]))
        rows = slice(*np.searchsorted(y, [low[1], high[1]]))
        if rows.start < rows.stop and columns.start < columns.stop:
            yield (rows, columns), shape.attenuation(x[None, columns], y[rows, None])


def _union(shapes: Sequence[Shape], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the optical depth of shapes that overlap without adding up, float32[H, W]."""
    depth = np.zeros((y.size, x.size), np.float32)
    for window, drawn in _drawn(shapes, x, y):
        np.maximum(depth[window], drawn, out=depth[window])
    return depth


def _soft_tissue(shapes: list[Shape], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    depth = _union(shapes, x[::_SOFT_GRID], y[::_SOFT_GRID])
    image = Image.fromarray(_blurred(depth, 1.2), "F")  # one mass, not parts with seams
    return np.asarray(image.resize((x.size, y.size), Image.Resampling.BICUBIC))


@functools.cache
def _texture_tile() -> np.ndarray:
    """Return trabecular texture about 1, float32[512, 512]: streaks along the limb, and patches."""
    random = np.random.default_rng(20171211)
    fine = _blurred(random.normal(size=(512, 512)).astype(np.float32), (1.8, 0.7))
    coarse = _blurred(random.normal(size=(512, 512)).astype(np.float32), 3.0)
    return (1 + 0.06 * fine / fine.std() + 0.04 * coarse / coarse.std()).astype(np.float32)


def _blurred(values: np.ndarray, radius: float | tuple[float, float]) -> np.ndarray:
    from scipy import ndimage

    return ndimage.gaussian_filter(values, radius, mode="nearest", truncate=2.5)


def _box(difference: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return the smallest box around where a finding changes the optical depth clearly."""
    peak = float(difference.max())
    if peak < 0.12:  # fainter than a nutrient canal: nobody could see it
        return None
    clear = difference > max(0.2 * peak, 0.06)
    rows, columns = np.flatnonzero(clear.any(axis=1)), np.flatnonzero(clear.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _display(depth: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Expose, blur, add noise, and map to 8-bit gray: uint8[H, W] and whether it is inverted."""
    height, width = depth.shape
    transmitted = np.exp(-depth)
    # Scatter: a broad haze of what came through elsewhere (its share grows with the field).
    small = max(2, width // 16), max(2, height // 16)
    haze = Image.fromarray(transmitted, "F").resize(small, Image.Resampling.BOX)
    haze = Image.fromarray(_blurred(np.asarray(haze), 2.0), "F")
    haze = np.asarray(haze.resize((width, height), Image.Resampling.BICUBIC))
    signal = transmitted + random.uniform(0.01, 0.05) * np.maximum(haze, 0)
    signal = _blurred(signal, random.uniform(0.5, 1.1))  # focal spot and detector
    quanta = random.uniform(1200, 9000)  # per pixel in air
    noise = random.standard_normal(signal.shape, dtype=np.float32)
    signal = np.maximum(signal + np.sqrt(np.maximum(signal, 1e-4) / quanta) * noise, 2e-3)
    gray = -np.log(signal)

    # The display window ends a little above the densest bone; metal saturates.
    top = np.quantile(depth[::4, ::4], 0.985) * random.uniform(1.2, 1.5)
    gray = np.clip((gray + 0.02) / max(float(top), 0.8), 0, 1) ** random.uniform(0.65, 1.05)
    gray = random.uniform(0.0, 0.06) + gray * random.uniform(0.82, 0.97)

    picture = Image.fromarray((np.minimum(gray, 1) * 255).astype(np.uint8))
    _add_marker(picture, random)
    values, inverted = np.asarray(picture), random.uniform() < INVERTED
    return _collimated(255 - values if inverted else values, random), inverted


def _add_marker(picture: Image.Image, random: np.random.Generator) -> None:
    """Print the side marker, lead letters, near a corner."""
    if random.uniform() < 0.25:
        return
    width, height = picture.size
    size = int(min(width, height) * random.uniform(0.06, 0.1))
    letter = str(random.choice(["L", "R"]))
    left = random.uniform(0.04, 0.12) if random.uniform() < 0.5 else random.uniform(0.8, 0.9)
    top = random.uniform(0.05, 0.14) if random.uniform() < 0.7 else random.uniform(0.78, 0.88)
    x, y = left * width, top * height
    level, draw = int(random.uniform(200, 250)), ImageDraw.Draw(picture)
    draw.text((x, y), letter, fill=level, font=ImageFont.load_default(size))
    if random.uniform() < 0.3:
        draw.rectangle((x - 4, y - 2, x + 0.9 * size, y + 1.25 * size), outline=level)


def _collimated(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Blacken (or whiten) what the collimator shut out, on none to four sides, a little askew."""
    if random.uniform() < 0.45:
        return values
    height, width = values.shape
    slant = np.tan(np.radians(random.normal(0, 1.2)))
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    level = 0 if random.uniform() < 0.93 else 235
    outside = np.zeros(values.shape, bool)
    for side in range(4):
        if random.uniform() < 0.6:
            edge = random.uniform(0.01, 0.07)
            outside |= (
                x < edge * width + slant * y,
                x > (1 - edge) * width + slant * y,
                y < edge * height - slant * x,
                y > (1 - edge) * height - slant * x,
            )[side]
    return np.where(outside, np.uint8(level), values)
