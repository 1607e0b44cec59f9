"""Single views: what a finding changes, where its box is, and what every view has in common."""

import numpy as np
import pytest

from mura.data import BODY_PARTS
from mura.phantom import FINDINGS, VARIANTS, render

PROJECTIONS = ("frontal", "lateral", "oblique")


def view(part, finding="none", variant="", projection="frontal", study=0, pose=0):
    return render(part, projection, finding, variant, (0, study, 1), (0, study, 2, pose))


@pytest.mark.parametrize("part", BODY_PARTS)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_view_is_an_8_bit_picture_with_its_longer_side_up_to_512(part, projection):
    drawn = view(part, projection=projection, study=BODY_PARTS.index(part))
    assert drawn.image.dtype == np.uint8 and drawn.image.ndim == 2
    assert max(drawn.image.shape) <= 512 and min(drawn.image.shape) >= 90
    assert drawn.image.std() > 15  # neither blank nor flat
    assert drawn.box is None


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


def test_a_few_views_are_inverted():
    """White background: the corner of an inverted view is bright where none is collimated."""
    drawn = [view("XR_FINGER", study=study) for study in range(60)]
    inverted = [each for each in drawn if each.inverted]
    assert 0 < len(inverted) < 20
    light = [np.median(each.image) > 128 for each in inverted]
    dark = [np.median(each.image) < 128 for each in drawn if not each.inverted]
    assert np.mean(light) > 0.9 and np.mean(dark) > 0.9
