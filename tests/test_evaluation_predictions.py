"""Checks, study pooling and external CSV files: what is accepted, and what a refusal names."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from mura import evaluation
from mura.evaluation import PredictionsError
from mura.evaluation.predictions import AGGREGATIONS, STUDY_COLUMNS, check_predictions
from mura.evaluation.reading import read_study_list

ELBOW = "MURA-v1.1/valid/XR_ELBOW/patient11186/study1_positive"
WRIST = "MURA-v1.1/valid/XR_WRIST/patient11186/study1_negative"  # same patient and number
HAND = "MURA-v1.1/valid/XR_HAND/patient11190/study2_negative"


@pytest.fixture
def predictions():
    rows = [
        (WRIST, 1, "XR_WRIST", "patient11186", 0, 0.2),
        (WRIST, 2, "XR_WRIST", "patient11186", 0, 0.4),
        (ELBOW, 1, "XR_ELBOW", "patient11186", 1, 0.9),
        (HAND, 1, "XR_HAND", "patient11190", 0, 0.5),
        (HAND, 2, "XR_HAND", "patient11190", 0, 0.5),
        (HAND, 3, "XR_HAND", "patient11190", 0, 0.8),
    ]
    columns = ["study", "view", "body_part", "patient", "label", "probability"]
    table = pd.DataFrame(rows, columns=columns).assign(split="valid")
    return table.assign(path=table["study"] + "/image" + table["view"].astype(str) + ".png")


@pytest.mark.parametrize(
    ("method", "wrist", "hand"),
    [
        ("mean", 0.3, 0.6),
        ("max", 0.4, 0.8),
        ("noisy_or", 1 - 0.8 * 0.6, 1 - 0.5 * 0.5 * 0.2),
        # Odds 1/4 and 2/3: root of 1/6. Odds 1, 1, 4: cube root of 4.
        ("logit_mean", 6**-0.5 / (1 + 6**-0.5), 4 ** (1 / 3) / (1 + 4 ** (1 / 3))),
    ],
)
def test_views_are_pooled_by_hand(predictions, method, wrist, hand):
    studies = evaluation.study_predictions(predictions, method)
    assert tuple(studies.columns) == STUDY_COLUMNS
    assert studies["study"].tolist() == [WRIST, ELBOW, HAND]  # order of first appearance
    assert studies["probability"].tolist() == pytest.approx([wrist, 0.9, hand])
    assert studies["views"].tolist() == [2, 1, 3]
    assert studies["label"].tolist() == [0, 1, 0]


def test_pooling_does_not_need_sorted_rows_and_survives_certainty(predictions):
    predictions["probability"] = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    for method in AGGREGATIONS:
        whole = evaluation.study_predictions(predictions, method)
        mixed = evaluation.study_predictions(predictions.sample(frac=1, random_state=1), method)
        assert whole["probability"].between(0, 1).all()
        both = whole.set_index("study")["probability"]
        pd.testing.assert_series_equal(both, mixed.set_index("study")["probability"][both.index])
    with pytest.raises(ValueError, match="median"):
        evaluation.study_predictions(predictions, "median")


def test_one_split_is_chosen_and_mixed_splits_are_refused(predictions):
    predictions.loc[predictions["study"] == HAND, "split"] = "tune"
    assert evaluation.study_predictions(predictions, split="tune")["study"].tolist() == [HAND]
    with pytest.raises(PredictionsError, match="no rows of split 'test'; found tune, valid"):
        evaluation.study_predictions(predictions, split="test")
    with pytest.raises(PredictionsError, match="mix the splits tune, valid"):
        evaluation.metric_table(evaluation.study_predictions(predictions))


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (2, "probability", 1.01, r"no probability from 0 to 1 \(1 of 6 rows\): row 2 \(.*, 1.01\)"),
        (2, "probability", np.nan, r"no probability.*row 2"),
        (2, "probability", -0.1, r"no probability.*-0.1"),
        (4, "label", 1, r"study with more than one label \(3 of 6 rows\): row 3.*row 4"),
        (4, "label", 2, r"no label of 0 \(normal\) or 1.*row 4"),
        (4, "label", None, r"no label.*row 4"),
        (4, "patient", "patient1", r"study with more than one patient"),
        (4, "body_part", "XR_ELBOW", r"study with more than one body_part"),
        (0, "body_part", "XR_SKULL", r"none of XR_ELBOW, .*row 0.*XR_SKULL"),
        (4, "split", "tune", r"study with more than one split"),
        (4, "view", 3, r"view predicted twice \(2 of 6 rows\): row 4 .*row 5"),
        (5, "path", f"{WRIST}/image1.png", r"view predicted twice .*: row 0 .*row 5"),
        (0, "study", None, r"no study .*: row 0"),
    ],
)
def test_bad_rows_are_named(predictions, row, column, value, message):
    predictions[column] = predictions[column].astype(object)
    predictions.loc[row, column] = value
    with pytest.raises(PredictionsError, match=f"^run 7: {'(?s:.*)'}{message}"):
        evaluation.study_predictions(predictions, name="run 7")


def test_missing_columns_and_rows_and_a_patient_in_two_splits_are_refused(predictions):
    mixed = predictions.assign(split=np.where(predictions["study"] == ELBOW, "tune", "valid"))
    with pytest.raises(PredictionsError, match="patient with more than one split"):
        check_predictions(mixed)
    with pytest.raises(PredictionsError, match="no column view, label; found study"):
        check_predictions(predictions.drop(columns=["view", "label"]))
    with pytest.raises(PredictionsError, match="no rows"):
        check_predictions(predictions.iloc[:0])


def test_many_bad_rows_are_counted_not_listed(predictions):
    many = pd.concat([predictions] * 5, ignore_index=True)
    with pytest.raises(
        PredictionsError, match=r"view predicted twice \(30 of 30 rows\).* and 24 more"
    ) as caught:
        check_predictions(many)
    assert len(str(caught.value)) < 1000


def write(tmp_path, text, encoding="utf-8"):
    file = tmp_path / "outside.csv"
    file.write_bytes(text.encode(encoding))
    return file


@pytest.fixture
def manifest(predictions):
    return predictions.drop(columns="probability").astype({"label": "Int64"})


def test_csv_of_studies(tmp_path, manifest):
    file = write(tmp_path, f"study,probability\n{WRIST}/,0.25\n{ELBOW},0.75\n")
    for known in (None, manifest):  # the folder's suffix is the label, or the manifest's
        studies = evaluation.study_predictions(evaluation.read_predictions(file, known))
        assert studies.astype(object).to_numpy().tolist() == [
            [WRIST, "XR_WRIST", "patient11186", "valid", 0, 0.25, 0],
            [ELBOW, "XR_ELBOW", "patient11186", "valid", 1, 0.75, 0],
        ]


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("/", "\\"),
        lambda text: text.replace("MURA-v1.1", "/data/sets/MURA-v1.1"),
        lambda text: text.replace("path,probability", " Path , Probability"),
        lambda text: text.replace("\n", "\n\n"),
    ],
)
def test_csv_of_images_in_every_dialect(tmp_path, predictions, manifest, rewrite):
    text = predictions[["path", "probability"]].to_csv(index=False)
    file = write(tmp_path, rewrite(text))
    for known in (None, manifest):
        read = evaluation.read_predictions(file, known)
        assert tuple(read.columns) == evaluation.PREDICTION_COLUMNS
        for column in ("path", "study", "view", "patient", "split", "label", "probability"):
            assert read[column].tolist() == predictions[column].tolist(), column


def test_csv_without_suffixes_takes_labels_from_its_column_or_the_manifest(tmp_path, manifest):
    bare = WRIST.removesuffix("_negative")
    file = write(tmp_path, f"study,probability\n{bare},0.25\n")
    with pytest.raises(PredictionsError, match="no label"):
        evaluation.read_predictions(file)
    known = evaluation.read_predictions(file, manifest)
    assert known[["study", "label"]].to_numpy().tolist() == [[WRIST, 0]]
    file = write(tmp_path, f"study,probability,label\n{bare},0.25,1\n")
    assert evaluation.read_predictions(file)["label"].tolist() == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a CSV file"),
        ("study,probability\n", "no rows"),
        ("study,score\nx,1\n", "columns study, score; expected path or study"),
        ("study,probability,probability\nx,1,1\n", "each once"),
        ("study,probability\nelbow 1,0.5\n", r"path is not .*\(1 of 1 rows\): .*elbow 1"),
        (f"path,probability\n{WRIST},0.5\n{HAND}/image1.png,0.5\n", "a whole study among"),
        (f"study,probability\n{WRIST},high\n", r"no probability.*row 1"),
        (f"study,probability\n{WRIST},0.5\n{WRIST}/,0.6\n", r"twice .*: row 1 .*row 2"),
        ("study,probability\nMURA-v1.1/valid/XR_HAND/patient1/study1,0.5\n", "not listed"),
        (f"path,probability\n{WRIST}/image7.png,0.5\n", "not listed.*image7"),
    ],
)
def test_bad_csv_files_name_file_and_rows(tmp_path, manifest, text, message):
    file = write(tmp_path, text)
    with pytest.raises(PredictionsError, match=message) as caught:
        evaluation.read_predictions(file, manifest)
    assert str(caught.value).startswith(str(file))


def test_csv_in_another_encoding_or_missing(tmp_path):
    with pytest.raises(PredictionsError, match="UTF-8"):
        evaluation.read_predictions(write(tmp_path, "study,probability\né,1\n", "utf-16"))
    with pytest.raises(FileNotFoundError):
        evaluation.read_predictions(tmp_path / "none.csv")


def test_study_list(tmp_path):
    file = write(tmp_path, f"\ufeffstudy\r\n# hardware\r\n\r\n{WRIST}/,plate\r\n{HAND}\r\n")
    assert read_study_list(file) == [WRIST, HAND]


@pytest.mark.parametrize("room", ["evaluation", "plots"])
def test_numbers_need_no_keras_and_no_figures(room):
    code = f"import sys, mura.{room}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"keras", "tensorflow", "jax", "torch"} & set(loaded)
    assert ("matplotlib" in loaded) == ("seaborn" in loaded) == (room == "plots")
