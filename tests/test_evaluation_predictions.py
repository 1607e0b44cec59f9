"""Checks, study pooling and external CSV files: what is accepted, and what a refusal names."""

import csv
import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from mura import evaluation
from mura.data.tables import to_labels
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
        (0, "body_part", "XR_SKULL", r"more than one body_part .*row 0.*XR_SKULL"),
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


def written(columns=("path", "probability", "label"), encoding="utf-8", **settings):
    """Write predictions as pandas does, or a spreadsheet of another country."""
    return lambda table: table[list(columns)].to_csv(**{"index": False} | settings).encode(encoding)


def replaced(*pairs, **settings):
    def write(table):
        text = written(("path", "probability"), **settings)(table)
        for old, new in pairs:
            text = text.replace(old.encode(), new.encode())
        return text

    return write


GERMAN = {"sep": ";", "decimal": ",", "lineterminator": "\r\n"}
DIALECTS = {
    "bom": written(encoding="utf-8-sig"),
    "crlf": written(lineterminator="\r\n"),
    "windows": replaced(("/", "\\")),
    "other-folder": replaced(("MURA-v1.1", "/data/sets/MURA-v1.1")),
    "other-case": replaced(("path,probability", " Path , PROBABILITY")),
    "blank-lines": replaced(("\n", "\n\n")),
    "blank-rows": replaced(("\n", ",,\n,,,\n")),
    "utf-16": written(encoding="utf-16"),
    "german": written(**GERMAN),
    "german-tabs": written(**GERMAN | {"sep": "\t"}, encoding="utf-16"),
    "german-commas": written(decimal=","),
    "german-without-header": written(**GERMAN, header=False),
    "excel": replaced(("path;", "sep=;\r\npath;"), **GERMAN),
    "semicolons": written(sep=";"),
    "quotes": written(quoting=csv.QUOTE_ALL),
    "exponents": written(**GERMAN, float_format="%.3e"),
    "lines-in-quotes": replaced((",0", ",0"), ("\n", '"\n"'), ("path,", '"path,')),
    "index": written(index=True),
    "index-name": replaced((",path", "Unnamed: 0,path"), index=True),
    "index-without-header": written(header=False, index=True),
    "german-index": written(**GERMAN, index=True),
    "series": lambda table: table.set_index("path")["probability"].to_csv().encode(),
    "row-names-of-r": replaced((",path", "path"), index=True),
    "other-order": written(("label", "view", "probability", "path")),
    "no-header": written(("path", "probability"), header=False),
    "no-header-labels": written(header=False),
    "no-header-order": written(("probability", "path", "label"), header=False, sep="\t"),
    "notes": lambda table: written(("note", "path", "probability"))(table.assign(note="a,\n;b")),
    "float-labels": lambda table: written()(table.astype({"label": float})),
    "true-and-false": lambda table: written()(table.astype({"label": bool})),
    "words": lambda table: written()(table.replace({"label": {0: " Normal", 1: "ABNORMAL "}})),
    "findings": lambda table: written()(table.replace({"label": {0: "negative", 1: "positive"}})),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_csv_of_images_in_every_dialect(tmp_path, predictions, manifest, dialect):
    file = tmp_path / "outside.csv"
    file.write_bytes(DIALECTS[dialect](predictions))
    for known in (None, manifest):
        read = evaluation.read_predictions(file, known)
        assert tuple(read.columns) == evaluation.PREDICTION_COLUMNS
        for column in ("path", "study", "view", "patient", "split", "label", "probability"):
            assert read[column].tolist() == predictions[column].tolist(), column


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"header": False}, "path from column 1, probability from column 2, label from column 3."),
        ({"header": False, "index": True}, "label from column 4 and left out column 1."),
        ({"index": True}, "path from column 2, .* and left out column 1."),
        ({}, None),
    ],
)
def test_it_is_said_which_column_is_what(tmp_path, predictions, settings, said):
    file = tmp_path / "outside.csv"
    file.write_bytes(written(**settings)(predictions))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluation.read_predictions(file)
    found = [str(warning.message) for warning in caught]
    assert len(found) == bool(said)
    assert all(re.fullmatch(f"{file}: read .*{said}", text) for text in found)


@pytest.mark.parametrize("column", ["label", None])
@pytest.mark.parametrize("studies", [[WRIST], [WRIST, ELBOW, HAND]])
def test_labels_that_contradict_the_data_folders_are_refused(
    tmp_path, predictions, manifest, studies, column
):
    """One study mistyped, or 0 and 1 swapped, with which a good model gets a kappa of -1."""
    table = predictions.copy()
    table.loc[table["study"].isin(studies), "label"] ^= 1
    file = tmp_path / "outside.csv"
    with_header = column is not None
    table[["path", "probability", "label"]].to_csv(file, index=False, header=with_header)
    text = rf"contradict the data folder's in {len(studies)} of 3 studies, .* label 1 of {WRIST};"
    with warnings.catch_warnings(), pytest.raises(PredictionsError, match=text):
        warnings.simplefilter("ignore")
        evaluation.read_predictions(file, manifest)


def test_a_label_that_the_data_folder_lacks_is_the_tables(tmp_path, predictions, manifest):
    manifest.loc[manifest["study"] == HAND, "label"] = pd.NA
    file = tmp_path / "outside.csv"
    predictions.to_csv(file, index=False)
    read = evaluation.read_predictions(file, manifest)
    assert read["label"].tolist() == predictions["label"].tolist()


@pytest.mark.parametrize(
    ("given", "label"),
    [
        *((value, 0) for value in (0, 0.0, False, "0", " 0 ", "0.0", "0.", "Normal", "NEGATIVE")),
        *(
            (value, 1)
            for value in (1, 1.0, True, "1", "1 ", "1.00", "true", "abnormal", "Positive")
        ),
        *(
            (value, None)
            for value in (2, -1, 0.5, "", "nan", None, "yes", "1,0", "10", "1.01", "١")
        ),
    ],
)
def test_labels_are_the_same_words_everywhere(tmp_path, predictions, given, label):
    found = to_labels(pd.Series([given]))
    assert found.dtype == "Int64"
    assert found.isna().tolist() == [label is None]
    table = predictions.assign(label=predictions["label"].astype(object))[2:3]
    table["label"] = [given]
    if label is None:
        with pytest.raises(PredictionsError, match=r"no label of 0 \(normal\) or 1 .*: row 2"):
            check_predictions(table)
    else:
        assert found.tolist() == check_predictions(table)["label"].tolist() == [label]


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
        (f"{WRIST}\n{HAND}\n", "columns path; expected path or study"),
        (f"path,probability\n{WRIST},0,5\n{HAND},0,1\n", r"no probability.*row 1 \(.*, 0,5\)"),
        (f"{WRIST},0,5\n{HAND},0,5\n", r"no label of 0.*row 1 \(.*, 5\)"),
        (f"{WRIST};0,5;2\n", r"no label of 0.*row 1 \(.*, 2\)"),
        (f"{WRIST};50 %\n", r"no probability.*row 1 \(.*, 50 %\)"),
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


def test_a_missing_csv_is_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        evaluation.read_predictions(tmp_path / "none.csv")


def test_study_list(tmp_path):
    file = write(tmp_path, f"\ufeffstudy\r\n# hardware\r\n\r\n{WRIST}/,plate\r\n{HAND}\r\n")
    assert read_study_list(file) == [WRIST, HAND]
    file.write_bytes(f"\tStudy\tcause\n0\t{WRIST}\tplate\n1\t{HAND}\t\n".encode("utf-16"))
    with pytest.warns(UserWarning, match=r"study from column 2 and left out column 1\.$"):
        assert read_study_list(file) == [WRIST, HAND]


@pytest.mark.parametrize("room", ["evaluation", "plots"])
def test_numbers_need_no_keras_and_no_figures(room):
    code = f"import sys, mura.{room}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"keras", "tensorflow", "jax", "torch"} & set(loaded)
    assert ("matplotlib" in loaded) == ("seaborn" in loaded) == (room == "plots")
