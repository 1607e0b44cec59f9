"""A table of one's own becomes a manifest, or an error that names the file and the line."""

import warnings
from pathlib import Path

import pandas as pd
import pytest

from mura.data import ManifestError, split_patients
from mura.data.manifest import COLUMNS, held_out
from mura.data.sources import table as source

HEAD = "path,label,study,patient,body_part,split\n"
FULL = (
    "SPLIT;Path;age;Label;patient;study;body_part\n"
    "Training;.\\p1\\a.png;40,5;Abnormal;001;s1;wrist\n"
    "training;p1/b.png;40,5;abnormal;001;s1;wrist\n"
    "test;../c.png;;normal;002;s2;hand\n"
    "VAL;/abs/d.png;7;;002;s3;hand\n"
)


@pytest.fixture
def write(tmp_path):
    def write(text, name="radiographs.csv"):
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


def test_a_full_table_is_read_as_it_is_written(write):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifest = source.read(write(FULL))
    assert [*manifest] == [*COLUMNS, "age"]
    assert manifest["path"].tolist() == ["p1/a.png", "p1/b.png", "../c.png", "/abs/d.png"]
    assert manifest["split"].tolist() == ["train", "train", "valid", "valid"]
    assert manifest["patient"].tolist() == ["001", "001", "002", "002"]
    assert manifest["study"].tolist() == ["s1", "s1", "s2", "s3"]
    assert manifest["view"].tolist() == [1, 2, 1, 1]
    assert manifest["label"].tolist() == [1, 1, 0, pd.NA]
    assert manifest["body_part"].cat.categories.tolist() == ["hand", "wrist"]
    assert manifest["body_part"].cat.ordered
    assert manifest["age"].tolist() == ["40.5", "40.5", "", "7"]
    assert (manifest["excluded"] == "").all()
    assert manifest.index.equals(pd.RangeIndex(4))
    types = manifest.dtypes.astype(str)
    assert (types["view"], types["label"]) == ("int64", "Int64")
    text = types.drop(["view", "label", "body_part"])
    assert set(text) == {str(pd.Series(["a"], dtype="str").dtype)}
    assert set(split_patients(manifest)) <= {"fit", "tune", "valid"}


def test_two_columns_are_enough_and_it_is_said_that_leaks_cannot_be_seen(write):
    file = write("label\tpath\n" + "".join(f"{n % 2}\t{n}.png\n" for n in range(100)), "own.tsv")
    with pytest.warns(UserWarning, match=r"own\.tsv: .* leaks between patients cannot be seen"):
        manifest = source.read(file)
    assert manifest["study"].equals(manifest["path"].rename("study"))
    assert manifest["patient"].equals(manifest["path"].rename("patient"))
    assert (manifest["body_part"] == "unnamed").all()
    assert (manifest["view"] == 1).all()
    expected = ["valid" if held_out(patient) else "train" for patient in manifest["patient"]]
    assert manifest["split"].tolist() == expected


def test_without_patients_each_study_is_one(write):
    with pytest.warns(UserWarning, match="leaks"):
        manifest = source.read(write("path,label,study\na.png,1,s\nb.png,1,s\nc.png,0,t\n"))
    assert manifest["patient"].tolist() == ["s", "s", "t"]
    assert manifest["view"].tolist() == [1, 2, 1]


def test_about_a_fifth_is_held_out_by_the_name_alone():
    names = [f"patient{number:05d}" for number in range(5000)]
    held = [held_out(name) for name in names]
    assert sum(held) / len(held) == pytest.approx(0.2, abs=0.02)
    first = ["patient00003", "patient00006", "patient00009"]  # of every machine and version
    assert [name for name, one in zip(names, held, strict=True) if one][:3] == first


def test_a_part_of_a_table_is_split_as_the_whole(write):
    lines = [f"{n}.png,{n % 2},patient{n // 3}\n" for n in range(300)]
    whole = source.read(write("path,label,patient\n" + "".join(lines))).set_index("path")["split"]
    part = source.read(write("path,label,patient\n" + "".join(lines[::-7]))).set_index("path")
    assert set(whole) == {"train", "valid"}
    assert part["split"].equals(whole[part.index])


def test_patients_may_use_the_same_names_of_studies(write):
    file = write("path,label,patient,study\na,1,p1,study1\nb,0,p2,study1\nc,0,p2,study2\n")
    manifest = source.read(file)
    assert manifest["study"].tolist() == ["p1/study1", "p2/study1", "p2/study2"]
    assert manifest["patient"].tolist() == ["p1", "p2", "p2"]


def test_a_column_without_entries_counts_as_none(write):
    with pytest.warns(UserWarning, match="leaks"):
        manifest = source.read(write(f"{HEAD}a.png,1,,,,\nb.png,,,,,\n"))
    assert manifest["study"].tolist() == ["a.png", "b.png"]
    assert (manifest["body_part"] == "unnamed").all()


@pytest.mark.parametrize(
    ("zero", "one"), [("0", "1"), ("0.0", "1.0"), ("FALSE", "True"), ("Negative", "positive")]
)
def test_labels_are_written_in_several_ways(write, zero, one):
    manifest = source.read(write(f"path,patient,label\na,p,{zero}\nb,p,{one}\nc,p,\n"))
    assert manifest["label"].tolist() == [0, 1, pd.NA]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column path or no column label"),
        ("image,label\na.png,1\n", r"no column path .*\(found: 'image, label'\); name the columns"),
        ("path,finding\na.png,1\n", "no column path or no column label"),
        ("x/a.png,1\nx/b.png,0\n", "name the columns path and label in the first row"),
        ("path,label\n", "no rows"),
        ("path,label,label\na.png,1,0\n", "column 'label' is taken"),
        ("path,label,view\na.png,1,AP\n", "column 'view' is taken .*; give it another"),
        ("path,label\na,1\n,0\n", r"1 rows without a path \(line 3: ''\); fill it in"),
        ("path,label\na,1\n./,0\n", r"without a path \(line 3"),
        ("path,label\na,1\nb,1\n.\\a,1\n", r"list an image twice \(line 2: 'a'; line 4: 'a'\)"),
        ("path,label\nx/a,1\nx//y/../a,1\n", "list an image twice"),
        ("path,label\na,1\nb,maybe\n", r"another label than 0 and 1 \(line 3: 'maybe'\); write 0"),
        ("path,label\na,1\n\nb,2\n", r"another label .*\(line 4: '2'\)"),
        (f"{HEAD}a,1,s,p,hand,train\nb,1,t,q,hand,dev\n", r"another split .*\(line 3: 'dev'\)"),
        (f"{HEAD}a,1,s,p,hand,train\nb,1,t,q,hand,\n", r"without a split \(line 3: 'b'\)"),
        (f"{HEAD}a,1,s,p,hand,train\nb,1,t,,hand,train\n", r"without a patient \(line 3: 'b'\)"),
        (f"{HEAD}a,1,s,p,hand,train\nb,1,,p,hand,train\n", r"without a study \(line 3: 'b'\)"),
        (f"{HEAD}a,1,s,p,hand,train\nb,1,t,p,,train\n", r"without a body_part \(line 3: 'b'\)"),
        (
            f"{HEAD}a,1,s,p,hand,train\nb,1,t,p,hand,train\nc,0,s,p,hand,train\n",
            r"one study more than one label \(line 2: 's'; line 4: 's'\); correct the label",
        ),
        (f"{HEAD}a,1,s,p,hand,train\nb,,s,p,hand,train\n", "one study more than one label"),
        (f"{HEAD}a,1,s,p,hand,train\nb,1,s,p,foot,train\n", "one study more than one body_part"),
        (
            f"{HEAD}a,1,s,p,hand,train\nb,1,t,p,hand,test\n",
            r"one patient more than one split \(line 2: 'p'; line 3: 'p'\); correct the split",
        ),
        ("path,label,study\na,1,s\nb,0,s\n", "one study more than one label"),
        (
            "path,label,patient,study\n1,1,a,x\n2,1,a/b,x\n3,1,a,b/c\n4,1,a/b,c\n",
            r"one study more than one patient \(line 4: 'a/b/c'; line 5: 'a/b/c'\)",
        ),
    ],
)
def test_a_wrong_table_is_refused_with_its_line_and_what_to_do(write, text, message):
    file = write(text)
    with pytest.raises(ManifestError, match=message) as caught:
        source.read(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_a_table_is_known_by_its_suffix_and_a_folder_by_its_one_table(write, tmp_path):
    assert not source.matches(tmp_path)
    assert not source.matches(tmp_path / "nowhere.csv")
    assert not source.matches(write("", "image.png"))
    file = write("path,label,AP/lateral\nx/a.png,1,2\n", "Wrists.CSV")
    write("x/a.png,1\n", "no-header.csv")
    write("path,probability\nx/a.png,1\n", "predictions.tsv")
    write("path,label\nx/a.png,1\n", "._Wrists.CSV")
    assert source.matches(file)
    assert source.matches(str(tmp_path))
    assert source.name(tmp_path) == source.name(file) == "Wrists"
    with pytest.warns(UserWarning, match="leaks"):
        assert source.read(tmp_path)["ap/lateral"].tolist() == ["2"]
    write("path,label\nx/a.png,1\n", "other.txt")
    assert not source.matches(tmp_path)
    for root, found in ((tmp_path, "2 tables"), (tmp_path / "nowhere.csv", "no tables")):
        with pytest.raises(FileNotFoundError, match=f"{found} .*; name the one to read"):
            source.read(root)


def test_no_table_passes_for_the_phantom(write):
    assert source.name(write(FULL, "phantom.csv")) == "phantom.csv"


def test_relative_paths_start_at_the_table_and_absolute_ones_stay(write, tmp_path):
    file = write(FULL)
    expected = [tmp_path / "p1" / "a.png", Path("/abs/d.png")]
    for root in (file, str(file), tmp_path):
        assert source.image_files(root, ["p1/a.png", "/abs/d.png"]) == expected
