"""The description of a data set: counts by hand, the published tables, sentences from counts."""

import numpy as np
import pandas as pd
import pytest
from layout import STUDIES, write_layout

from mura.data import cohort
from mura.data.manifest import BODY_PARTS, read_manifest
from mura.files import InputError
from mura.phantom import counts as published


@pytest.fixture
def root(tmp_path):
    return write_layout(tmp_path)


def test_counts_are_those_of_the_layout(root):
    manifest = read_manifest(root)
    images, studies = cohort.count_table(manifest), cohort.count_table(manifest, "studies")
    for split in ("train", "valid"):
        for label, name in enumerate(("normal", "abnormal")):
            for part in BODY_PARTS:
                views = [s[5] for s in STUDIES if (s[0], s[1], s[4]) == (split, part, label)]
                assert images.loc[part, (split, name)] == sum(views)
                assert studies.loc[part, (split, name)] == len(views)
    assert images.loc["all"].sum() == len(manifest)
    with pytest.raises(InputError, match="unit 'patients'"):
        cohort.count_table(manifest, "patients")


def test_the_published_tables_add_up_to_the_papers_totals():
    images, studies = cohort.published_table(), cohort.published_table("studies")
    assert images.loc["all", "train"].tolist() == [21935, 14873]
    assert images.loc["all", "valid"].tolist() == [1667, 1530]
    assert studies.loc["all", "train"].tolist() == [8280, 5177]
    assert studies.loc["all", "valid"].tolist() == [661, 538]


def test_patients_are_counted_per_split_beside_the_published_ones(root):
    table = cohort.patient_table(read_manifest(root))
    # patient 1 has wrist and hand studies, an abnormal one and two normal ones
    assert table["train", "here"].tolist() == [4, 1, 1]
    assert table["valid", "here"].tolist() == [2, 0, 0]
    assert table.loc["patients", ("valid", "published")] == published.PATIENT_COUNTS["valid"]


def test_sentences_follow_the_counts(root):
    text = " ".join(cohort.statements(read_manifest(root)))
    assert "In train, abnormal images outnumber normal ones for shoulder, wrist." in text
    assert "In valid, abnormal images outnumber normal ones for finger." in text
    assert "0 patients are in both" in text
    assert "1 patients have studies of one number for several body parts" in text
    assert "furthest apart" not in text  # no body part is in both splits


def test_sentences_say_how_far_the_splits_shares_of_abnormal_studies_are_apart(phantom_root):
    manifest = read_manifest(phantom_root)
    studies = manifest.drop_duplicates("study")
    elbows = studies[studies["body_part"] == "XR_ELBOW"]
    changed = manifest[~manifest["study"].isin(elbows.query("split == 'valid' and label")["study"])]
    text = " ".join(cohort.statements(changed))
    train = studies[studies["split"] == "train"]["label"].mean()
    elbow = elbows[elbows["split"] == "train"]["label"].mean()
    assert f"Of train's studies {train:.1%} are abnormal, of valid's " in text
    assert f"furthest apart for elbow: {elbow:.1%} and 0.0%." in text


def test_samples_are_the_images_and_repeat_with_the_seed(root):
    manifest = read_manifest(root)
    facts = cohort.image_facts(root, manifest, count=5)
    assert len(facts) == 5
    assert set(facts["mode"]) == {"L"}
    assert set(facts["width"]) == {50}
    pd.testing.assert_frame_equal(facts, cohort.image_facts(root, manifest, count=5))
    samples = cohort.sample_images(root, manifest, per_label=2)
    assert list(samples) == ["XR_WRIST"]  # the only part with both labels
    assert [len(images) for images in samples["XR_WRIST"].values()] == [1, 1]
    assert all(images[0].dtype == np.uint8 for images in samples["XR_WRIST"].values())
    pixels = cohort.sample_pixels(root, manifest, per_part=2, size=16)
    assert list(pixels) == [part for part in BODY_PARTS if part in set(manifest["body_part"])]
    assert pixels["XR_WRIST"].shape == (2, 16, 16)
