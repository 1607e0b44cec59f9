"""Single views: what a finding changes, where its box is, and what every view has in common."""

import numpy as np
import pytest

from mura.data.manifest import BODY_PARTS
from mura.phantom import FINDINGS, VARIANTS, render
from mura.phantom.anatomy import BUILDERS
from mura.phantom.findings import draw
from mura.phantom.shapes import METAL, Ellipsoid, Shaft

PROJECTIONS = ("frontal", "lateral", "oblique")


def view(part, finding="none", variant="", projection="frontal", study=0, pose=0):
    return render(part, projection, finding, variant, (0, study, 1), (0, study, 2, pose))


def changes(kind, part, draws=60):
    """What a finding or variant does to as many patients."""
    return [
        draw(kind, BUILDERS[part](np.random.default_rng(seed), "frontal"),
             np.random.default_rng(seed))
        for seed in range(draws)
    ]  # fmt: skip


@pytest.mark.parametrize("part", BODY_PARTS)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_view_is_an_8_bit_picture_with_its_longer_side_up_to_512(part, projection):
    drawn = view(part, projection=projection, study=BODY_PARTS.index(part))
    assert drawn.image.dtype == np.uint8 and drawn.image.ndim == 2
    assert max(drawn.image.shape) <= 512 and min(drawn.image.shape) >= 90
    assert drawn.image.std() > 15  # neither blank nor flat
    assert drawn.box is None


def test_the_same_seeds_draw_the_same_view_and_others_another():
    first = view("XR_WRIST")
    assert np.array_equal(first.image, view("XR_WRIST").image)
    for other in (view("XR_WRIST", pose=1), view("XR_WRIST", study=1)):
        assert first.image.shape != other.image.shape or not np.array_equal(
            first.image, other.image
        )


def beyond_the_window(with_it, without, box):
    """How far gray levels differ beyond what another display window explains, [H, W].

    The densest part sets the window, so that metal darkens all the rest: outside the box equal
    levels become equal levels, and a finding is what that map does not predict.
    """
    x0, y0, x1, y1 = box
    outside = np.ones(without.shape, bool)
    outside[y0:y1, x0:x1] = False
    seen = without[outside]
    sums = np.bincount(seen, with_it[outside].astype(float), 256)
    counts = np.bincount(seen, minlength=256)
    levels = np.flatnonzero(counts > 20)
    map_of_levels = np.interp(np.arange(256), levels, sums[levels] / counts[levels])
    return np.abs(with_it - map_of_levels[without])


@pytest.mark.parametrize("part", BODY_PARTS)
@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_changes_what_its_box_holds_and_nothing_else(part, finding):
    """The same patient and pose with and without: pose, exposure and noise do not depend on it."""
    shown = 0
    for study in range(3):
        without, with_it = view(part, study=study), view(part, finding, study=study)
        assert with_it.image.shape == without.image.shape
        if with_it.box is None:
            continue
        shown += 1
        x0, y0, x1, y1 = with_it.box
        height, width = with_it.image.shape
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        changed = beyond_the_window(with_it.image, without.image, with_it.box) > 25
        margin = 4  # pixels: blur, and the faint edge that the box leaves out
        near = changed[max(y0 - margin, 0) : y1 + margin, max(x0 - margin, 0) : x1 + margin]
        assert near.sum() >= 10
        assert near.sum() > 0.9 * changed.sum()
    assert shown >= 1


def test_findings_change_far_more_than_the_noise_and_variants_mimic_them():
    """Pixels clearly changed: none between equal views, some by a variant, more by a finding."""

    def clearly_changed(**what):
        counts = [
            (np.abs(view("XR_WRIST", study=s, **what).image.astype(float)
                    - view("XR_WRIST", study=s).image) > 20).sum()
            for s in range(6)
        ]  # fmt: skip
        return float(np.mean(counts))

    assert clearly_changed() == 0
    variants = {name: clearly_changed(variant=name) for name in VARIANTS if name}
    findings = {name: clearly_changed(finding=name) for name in FINDINGS}
    assert min(variants.values()) > 0
    assert np.mean(list(findings.values())) > np.mean(list(variants.values()))


def test_a_variant_has_no_box():
    for name in VARIANTS:
        assert view("XR_HAND", variant=name).box is None


def test_a_fracture_takes_the_place_of_a_growth_plate_in_its_shaft():
    """So that the box encloses the fracture alone."""
    for study in range(4):
        plain = view("XR_FOREARM", "fracture", study=study)
        plates = view("XR_FOREARM", "fracture", "growth plate", study=study)
        if plain.box is not None:
            assert plates.box == plain.box


def test_fractures_gap_and_differ_in_step_and_angle_and_some_have_fragments():
    drawn = changes("fracture", "XR_FOREARM")
    breaks = [next(iter(change.fractures.values())) for change in drawn]
    assert all(b.gap > 0 and b.step * b.angle > 0 for b in breaks)
    assert {np.sign(b.step) for b in breaks} == {-1, 1}
    for amounts in ([abs(b.step) for b in breaks], [abs(b.angle) for b in breaks]):
        assert max(amounts) > 1.5 * min(amounts)
    assert {len(change.added) for change in drawn} == {0, 1, 2}


def test_hardware_is_plates_with_screws_pins_or_a_nail_all_of_metal():
    kinds = set()
    for change in changes("hardware", "XR_HUMERUS"):
        assert all(part.density == METAL for part in change.added)
        plates = sum(isinstance(part, Ellipsoid) for part in change.added)
        rods = sum(isinstance(part, Shaft) for part in change.added)
        kinds.add("plate and screws" if plates else "pins or nail")
        assert (plates >= 3 and rods <= plates) or (plates == 0 and 1 <= rods <= 3)
    assert kinds == {"plate and screws", "pins or nail"}


def test_lesions_are_lytic_or_sclerotic():
    factors = [change.spots[0].factor for change in changes("lesion", "XR_HUMERUS")]
    assert {factor < 1 for factor in factors} == {True, False}
    assert all(factor < 0.5 or factor > 1.5 for factor in factors)  # no lesion like its bone


def test_degeneration_adds_dense_bone_at_one_or_two_neighbouring_joints():
    for change in changes("degeneration", "XR_HAND"):
        assert not change.fractures and not change.spots
        centres = np.array([part.centre for part in change.added])
        assert 3 <= len(centres) <= 14
        assert np.ptp(centres, axis=0).max() < 8


def test_growth_plates_are_undisplaced_lines_near_the_ends_of_shafts():
    for change in changes("growth plate", "XR_FOREARM"):
        for plate in change.fractures.values():
            assert plate.step == plate.angle == 0
            assert plate.at < 0.1 or plate.at > 0.9


def test_a_few_views_are_inverted():
    """White background: the corner of an inverted view is bright where none is collimated."""
    drawn = [view("XR_FINGER", study=study) for study in range(60)]
    inverted = [each for each in drawn if each.inverted]
    assert 0 < len(inverted) < 20
    light = [np.median(each.image) > 128 for each in inverted]
    dark = [np.median(each.image) < 128 for each in drawn if not each.inverted]
    assert np.mean(light) > 0.9 and np.mean(dark) > 0.9


def test_views_vary_in_aspect_size_and_collimation():
    images = [view("XR_FOREARM", projection=PROJECTIONS[n % 3], study=n).image for n in range(45)]
    aspects = [image.shape[1] / image.shape[0] for image in images]
    assert min(aspects) < 0.4 and max(aspects) > 1  # a limb that lies across the image
    assert max(max(image.shape) for image in images) == 512
    assert min(max(image.shape) for image in images) < 512
    flat_rows = [np.ptp(image[0]) == 0 for image in images]  # a blank first row: collimated
    assert 0 < np.mean(flat_rows) < 1
