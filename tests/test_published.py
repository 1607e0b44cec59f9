"""The tables of facts against sums, shares and rows that their sources state separately."""

import pytest

from mura.data import BODY_PARTS
from mura.evaluation.published import (
    HIDDEN,
    KAPPAS,
    PAPER_RADIOLOGISTS,
    TEST_SETS,
    published_kappa,
)
from mura.phantom import counts as published

# MURA v1.1's CSV files: rows of the four lists, and the column sums of the counts.
IMAGES = {"train": (21_935, 14_873, 36_808), "valid": (1_667, 1_530, 3_197)}
STUDIES = {"train": (8_280, 5_177, 13_457), "valid": (661, 538, 1_199)}


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
    more = {
        (split, part)
        for split, counts in published.IMAGE_COUNTS.items()
        for part, (normal, abnormal) in counts.items()
        if abnormal > normal
    }
    assert more == {("valid", "XR_FINGER"), ("valid", "XR_FOREARM")}
    assert sum(published.PATIENT_COUNTS.values()) == 11_967


def test_every_result_has_one_of_the_test_sets_and_keeps_to_the_body_parts():
    assert set(KAPPAS) == set(TEST_SETS)
    for rows in KAPPAS.values():
        for kappas in rows.values():
            assert len(kappas) in (1, len(BODY_PARTS) + 1)
            assert all(0 < kappa < 1 for kappa in kappas)
            if parts := kappas[:-1]:  # a slip in a column's order would hardly keep to this
                assert min(parts) < kappas[-1] < max(parts)
    tables = published_kappa()
    assert sum(map(len, tables.values())) == sum(map(len, KAPPAS.values()))
    paper = next(iter(tables.values())).loc["DenseNet169 ensemble (paper)"]
    assert paper[["XR_FINGER", "XR_WRIST", "all"]].tolist() == [0.389, 0.931, 0.705]


def test_the_paper_s_model_is_best_of_its_table_for_no_part_but_ties_at_the_wrist():
    """Table 2: the best radiologist is at or above the model on every part; wrists tie at .931."""
    readers = [row for name, row in KAPPAS[HIDDEN].items() if name.startswith("radiologist")]
    model = KAPPAS[HIDDEN]["DenseNet169 ensemble (paper)"]
    assert len(readers) == 3
    for part, own, *best in zip((*BODY_PARTS, "all"), model, *readers, strict=True):
        assert own < max(best) or (part, own, max(best)) == ("XR_WRIST", 0.931, 0.931)
    assert (min(r[-1] for r in readers), max(r[-1] for r in readers)) == PAPER_RADIOLOGISTS
