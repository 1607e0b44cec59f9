"""Path lengths against solid geometry's closed forms."""

import numpy as np
import pytest

from mura.phantom.shapes import CORTEX, TRABECULAR, Ellipsoid, Fracture, Shaft, Spot

STEP = 0.02
X = np.arange(-4, 4, STEP, dtype=np.float32)[None, :] + STEP / 2
Y = X.reshape(-1, 1)


def vector(*values):
    return np.array(values, float)


def at(shape, x, y):
    return float(shape.attenuation(np.float32([[x]]), np.float32([[y]]))[0, 0])


def about_z(degrees):
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def rod(**changes):
    settings = {"start": vector(0, -3, 0), "end": vector(0, 3, 0), "radii": (0.5, 0.5, 0.5)}
    return Shaft(**(settings | {"density": 1.0} | changes))


def test_a_solid_ellipsoid_has_its_volume_and_its_chord():
    solid = Ellipsoid.of((0.3, -0.2, 1.0), (1.0, 2.0, 1.5), density=2.0)
    mass = solid.attenuation(X, Y).sum() * STEP**2
    assert mass == pytest.approx(2.0 * 4 / 3 * np.pi * 1.0 * 2.0 * 1.5, rel=1e-3)
    assert at(solid, 0.3, -0.2) == pytest.approx(2.0 * 2 * 1.5)
    assert at(solid, 0.3 + 0.6, -0.2) == pytest.approx(2.0 * 2 * 1.5 * 0.8)  # 0.6² + 0.8² = 1


def test_an_ellipsoid_that_is_turned_keeps_its_mass_and_shows_its_other_axis():
    solid = Ellipsoid.of((0, 0, 0), (1.0, 2.0, 0.5), density=1.0)
    quarter = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], float)  # x becomes the beam's axis
    turned = solid.moved(quarter, vector(0, 0, 0))
    assert at(turned, 0, 0) == pytest.approx(2 * 1.0)
    assert turned.attenuation(X, Y).sum() == pytest.approx(solid.attenuation(X, Y).sum(), rel=1e-3)


def test_a_hollow_ball_is_densest_where_the_beam_grazes_its_inner_wall():
    ball = Ellipsoid.of((0, 0, 0), (2.0, 2.0, 2.0), cortex=0.4)
    centre = 2 * (CORTEX * 0.4 + TRABECULAR * 1.6)
    assert at(ball, 0, 0) == pytest.approx(centre)
    # at the inner radius the chord is cortex only: 2 * sqrt(2² - 1.6²) = 2 * 1.2
    assert at(ball, 1.6, 0) == pytest.approx(CORTEX * 2 * 1.2)
    assert at(ball, 2.01, 0) == 0


def test_a_rod_across_the_beam_is_crossed_by_its_width_and_ends_round():
    assert at(rod(), 0, 0) == pytest.approx(2 * 0.5)
    assert at(rod(), 0.3, 1.0) == pytest.approx(2 * 0.4)  # 0.3² + 0.4² = 0.5²
    assert at(rod(), 0.51, 0) == 0
    assert 0 < at(rod(), 0, 3.2) < 1 and at(rod(), 0, 3.31) == 0


def test_a_rod_that_leans_along_the_beam_is_crossed_obliquely():
    leaning = rod(start=vector(0, -3, -3), end=vector(0, 3, 3))  # 45 degrees
    assert at(leaning, 0, 0) == pytest.approx(2 * 0.5 * np.sqrt(2), rel=1e-6)


def test_a_rod_that_points_at_the_viewer_is_finite():
    end_on = rod(start=vector(0, 0, -3), end=vector(0, 0, 3))
    assert 0 < at(end_on, 0, 0) < 10


def test_a_long_bone_shows_two_bright_lines_around_a_darker_marrow():
    bone = rod(density=None, cortex=0.15)
    profile = bone.attenuation(X, np.zeros((1, 1), np.float32))[0]
    brightest = np.abs(X[0, np.argsort(profile)[-4:]])
    assert np.allclose(brightest, 0.35, atol=0.04)  # the inner wall: 0.5 - 0.15
    assert profile.max() > 1.3 * at(bone, 0, 0)


@pytest.mark.parametrize("degrees", [30, 90, 200])
@pytest.mark.parametrize(
    "shape",
    [
        rod(density=None, cortex=0.15, radii=(0.9, 0.5, 0.7), bow=vector(0.3, 0, 0)),
        rod(density=None, fracture=Fracture(0.4, 0.3, 0.1, 0.2, 0.1)),
        Ellipsoid.of((1, 0.5, 0), (0.5, 1, 0.7)),
        Spot(Ellipsoid.of((0.4, 0.2, 0), (0.5, 0.5, 0.5)), 0.3),
    ],
)
def test_turning_the_limb_turns_the_picture(shape, degrees):
    turned = shape.moved(about_z(degrees), vector(0, 0, 0))
    if isinstance(shape, Spot):  # its outline's bumps stay upright: compare the inside
        points = [(0.4, 0.2), (0.45, 0.25)]
    else:
        points = [(0.0, 0.0), (0.2, -0.4), (0.1, 0.9), (1.1, 0.6), (0.3, 2.9)]
    for x, y in points:
        u, v, _ = about_z(degrees) @ vector(x, y, 0)
        assert at(turned, u, v) == pytest.approx(at(shape, x, y), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "shape",
    [
        rod(radii=(0.9, 0.5, 0.7), bow=vector(0.4, 0, 0)),
        rod(density=None, fracture=Fracture(0.5, 0.8, 0.1, 0.4, 0.5)),
        Ellipsoid.of((0.5, 0, 0), (0.5, 1.2, 0.7)).moved(about_z(40), vector(0, 0, 0)),
    ],
)
def test_nothing_is_drawn_outside_the_bounds(shape):
    low, high = shape.bounds()
    drawn = shape.attenuation(X, Y) > 0
    rows, columns = np.nonzero(drawn)
    x, y = X[0, columns], Y[rows, 0]
    assert x.min() >= low[0] and x.max() <= high[0]
    assert y.min() >= low[1] and y.max() <= high[1]


def test_a_fracture_opens_a_gap_shifts_the_far_part_and_leaves_the_near_part():
    whole = rod(density=None)
    broken = rod(density=None, fracture=Fracture(0.5, slope=0, gap=0.1, step=0.3, angle=0))
    near = Y[:, 0] < -0.5
    difference = broken.attenuation(X, Y) - whole.attenuation(X, Y)
    assert np.abs(difference[near]).max() < 1e-5 < np.abs(difference[~near]).max()
    assert at(broken, 0, 0) < 0.3 * at(whole, 0, 0)  # most of the bone is gone in the gap
    row = np.full((1, 1), 0.3, np.float32)
    profile = broken.attenuation(X, row)[0]
    shift = abs(float((X[0] * profile).sum() / profile.sum()))
    assert shift == pytest.approx(0.3 * np.exp(-0.3 / 1.6), abs=0.02)


def test_a_growth_plate_is_a_line_without_displacement():
    plate = rod(density=None, fracture=Fracture(0.9, 0, 0.05, 0, 0, depth=0.7, border=0.3))
    whole = rod(density=None)
    y = -3 + 0.9 * 6
    assert at(plate, 0, y) < 0.5 * at(whole, 0, y)
    assert at(plate, 0, y + 0.1) > 1.1 * at(whole, 0, y + 0.1)  # its dense border
    assert at(plate, 0, y - 1) == pytest.approx(at(whole, 0, y - 1))


def test_a_lytic_spot_thins_and_a_sclerotic_one_thickens_only_inside():
    region = Ellipsoid.of((0, 0, 0), (1, 1, 1))
    assert at(Spot(region, 0.2), 0, 0) == pytest.approx(0.2, abs=0.02)
    assert at(Spot(region, 2.5), 0, 0) == pytest.approx(2.5, abs=0.02)
    assert at(Spot(region, 0.2), 2.5, 0) == pytest.approx(1, abs=1e-3)
    assert at(Spot(region, 0.2, rim=0.3), 0, 1.05) > at(Spot(region, 0.2), 0, 1.05)
