"""The plan of a phantom against MURA's published counts, without drawing anything."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from mura.data import BODY_PARTS
from mura.phantom import counts as published
from mura.phantom.plan import plan_studies

SPLITS = ("train", "valid")


@pytest.fixture(scope="module")
def full():
    return plan_studies(1, seed=0)


def of(studies, split):
    return [study for study in studies if study.split == split]


def patients(studies):
    groups = defaultdict(list)
    for study in studies:
        groups[study.patient].append(study)
    return groups


def cells(studies):
    return Counter((study.body_part, study.label) for study in studies)


def images(studies):
    counts = Counter()
    for study in studies:
        counts[study.body_part, study.label] += study.views
    return counts


def table(counts):
    return {(part, label): counts[part][label] for part in counts for label in (0, 1)}


@pytest.mark.parametrize("split", SPLITS)
def test_the_full_scale_has_the_published_studies_images_and_views(full, split):
    studies = of(full, split)
    assert cells(studies) == table(published.STUDY_COUNTS[split])
    assert images(studies) == table(published.IMAGE_COUNTS[split])
    assert Counter(study.views for study in studies) == published.VIEWS_PER_STUDY[split]


@pytest.mark.parametrize(
    ("split", "first", "last", "several_parts", "both_labels"),
    [("train", 1, 11184, 1467, 888), ("valid", 11185, 11967, 248, 167)],
)
def test_the_full_scale_has_the_published_patients(
    full, split, first, last, several_parts, both_labels
):
    groups = patients(of(full, split))
    assert sorted(groups) == list(range(first, last + 1))
    assert sum(len({s.body_part for s in group}) > 1 for group in groups.values()) == several_parts
    assert sum(len({s.label for s in group}) > 1 for group in groups.values()) == both_labels


@pytest.mark.parametrize("scale", [1, 0.14, 0.02, 0.0001])
def test_studies_are_numbered_from_one_without_gaps_and_have_one_label(scale):
    numbers = defaultdict(list)
    for study in plan_studies(scale, seed=3):
        numbers[study.split, study.body_part, study.patient].append(study.number)
    assert all(sorted(found) == list(range(1, len(found) + 1)) for found in numbers.values())


@pytest.mark.parametrize("scale", [0.5, 0.14, 0.02])
@pytest.mark.parametrize("split", SPLITS)
def test_smaller_scales_keep_the_proportions(scale, split):
    studies = of(plan_studies(scale, seed=0), split)
    for cell, number in table(published.STUDY_COUNTS[split]).items():
        assert abs(cells(studies)[cell] - number * scale) <= 0.5 or cells(studies)[cell] == 1
    assert len(patients(studies)) == pytest.approx(published.PATIENT_COUNTS[split] * scale, abs=2)
    published_mean = sum(n * k for n, k in published.VIEWS_PER_STUDY[split].items()) / sum(
        published.VIEWS_PER_STUDY[split].values()
    )
    assert np.mean([study.views for study in studies]) == pytest.approx(published_mean, abs=0.15)
    # one view more or fewer per study at most, in the mean of a cell
    for (part, label), number in images(studies).items():
        expected = published.IMAGE_COUNTS[split][part][label] * scale
        assert abs(number - expected) <= max(3, 0.1 * expected)


@pytest.mark.parametrize("scale", [1, 0.14, 0.001, 1e-9])
def test_every_scale_has_every_body_part_with_both_labels_in_both_splits(scale):
    studies = plan_studies(scale, seed=0)
    for split in SPLITS:
        assert set(cells(of(studies, split))) == {(p, k) for p in BODY_PARTS for k in (0, 1)}
    assert not set(patients(of(studies, "train"))) & set(patients(of(studies, "valid")))


def test_a_studys_folder_is_named_as_in_mura(full):
    study = full[0]
    assert study.folder == "train/XR_SHOULDER/patient00001/study1_" + (
        "positive" if study.label else "negative"
    )
