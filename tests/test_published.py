"""The tables of facts against sums, shares and rows that their sources state separately."""

import pytest

from mura.data.manifest import BODY_PARTS
from mura.phantom import counts as published

# MURA v1.1's CSV files: rows of the four lists, and the column sums of the counts.
IMAGES = {"train": (21_935, 14_873, 36_808), "valid": (1_667, 1_530, 3_197)}
STUDIES = {"train": (8_280, 5_177, 13_457), "valid": (661, 538, 1_199)}


def rows(test_set):
    return [row for row in published.RESULTS if row.test_set == test_set]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_counts_add_up_to_the_rows_of_the_lists(split):
    for counts, sums in ((published.IMAGE_COUNTS, IMAGES), (published.STUDY_COUNTS, STUDIES)):
        assert tuple(counts[split]) == BODY_PARTS
        normal, abnormal = map(sum, zip(*counts[split].values(), strict=True))
        assert (normal, abnormal, normal + abnormal) == sums[split]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_views_per_study_add_up_to_the_studies_and_the_images(split):
    views = published.VIEWS_PER_STUDY[split]
    assert sum(views.values()) == STUDIES[split][2]
    assert sum(number * studies for number, studies in views.items()) == IMAGES[split][2]


def test_counts_say_what_the_descriptions_of_the_set_say():
    """In train normal outnumbers abnormal but in valid not for fingers and forearms."""
    for normal, abnormal in published.IMAGE_COUNTS["train"].values():
        assert normal > abnormal
    more_abnormal = {
        part for part, (normal, abnormal) in published.IMAGE_COUNTS["valid"].items()
        if abnormal > normal
    }  # fmt: skip
    assert more_abnormal == {"XR_FINGER", "XR_FOREARM"}
    valid = {part: sum(counts) for part, counts in published.IMAGE_COUNTS["valid"].items()}
    assert (valid["XR_WRIST"], valid["XR_SHOULDER"], valid["XR_ELBOW"]) == (659, 563, 465)
    assert (valid["XR_FINGER"], valid["XR_HAND"]) == (461, 460)
    assert (valid["XR_FOREARM"], valid["XR_HUMERUS"]) == (301, 288)


def test_patients_add_up_to_all_and_fit_their_studies():
    assert sum(published.PATIENT_COUNTS.values()) == 11_967
    for split, patients in published.PATIENT_COUNTS.items():
        for some in (published.PATIENTS_WITH_SEVERAL_PARTS, published.PATIENTS_WITH_BOTH_LABELS):
            assert 0 < some[split] < patients < STUDIES[split][2]


@pytest.mark.parametrize("test_set", published.TEST_SETS)
def test_results_name_their_source_and_keep_to_the_body_parts(test_set):
    assert rows(test_set)
    for row in rows(test_set):
        assert row.source and row.name
        assert set(row.kappa) in ({"all"}, {*BODY_PARTS, "all"})
        assert all(0 < kappa < 1 for kappa in row.kappa.values())


def test_every_result_has_one_of_the_test_sets():
    assert {row.test_set for row in published.RESULTS} == set(published.TEST_SETS)
    assert len({row.name for row in published.RESULTS}) == len(published.RESULTS)


def test_the_overall_kappa_lies_among_those_of_the_body_parts():
    """A slip in a column's order would hardly keep to this and to the bests below."""
    for row in published.RESULTS:
        parts = [kappa for part, kappa in row.kappa.items() if part != "all"]
        assert not parts or min(parts) < row.kappa["all"] < max(parts)


def test_the_paper_s_model_is_best_of_its_table_for_no_part_but_ties_at_the_wrist():
    """Table 2: the best radiologist is at or above the model on every part; wrists tie at .931."""
    readers = [row for row in rows(published.HIDDEN) if row.name.startswith("radiologist")]
    (model,) = (row for row in rows(published.HIDDEN) if "paper" in row.name)
    assert len(readers) == 3
    for part in BODY_PARTS:
        best = max(reader.kappa[part] for reader in readers)
        assert model.kappa[part] < best or (part, best) == ("XR_WRIST", 0.931)
    assert model.auroc == 0.929
    assert model.kappa["all"] == 0.705 < min(reader.kappa["all"] for reader in readers)


def test_the_neighbours_networks_rank_as_their_table_says():
    kappa = {row.name: row.kappa["all"] for row in rows(published.VALID)}
    ranked = ["CNN from scratch", "VGG19", "ResNet50", "DenseNet169", "DenseNet201"]
    values = [kappa[f"{name} (ilias-ant)"] for name in ranked]
    assert values == sorted(values) == [0.386, 0.598, 0.618, 0.629, 0.645]
    finger = {
        row.name: row.kappa["XR_FINGER"] for row in rows(published.VALID) if len(row.kappa) > 1
    }
    assert max(finger, key=finger.get) == "DenseNet201 (ilias-ant)"
