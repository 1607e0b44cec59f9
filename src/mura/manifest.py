"""Read a MURA-layout folder into a table with one row per image.

The only module that knows MURA's paths and CSV files (v1.1: ``train_image_paths.csv`` and
``valid_image_paths.csv`` list images, ``*_labeled_studies.csv`` label studies; none has a header,
paths begin with the root folder's own name).
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from mura.files import InputError, project_folder

BODY_PARTS = (
    "XR_ELBOW",
    "XR_FINGER",
    "XR_FOREARM",
    "XR_HAND",
    "XR_HUMERUS",
    "XR_SHOULDER",
    "XR_WRIST",
)
BODY_PART_DTYPE = pd.CategoricalDtype(BODY_PARTS, ordered=True)
SPLITS = ("train", "valid")
COLUMNS = ("path", "split", "body_part", "patient", "study", "view", "label")

# The study folder's suffix is absent in the hidden test set.
_IMAGE = (
    r"^(?P<study>(?:.*/)?(?P<split>[^/]+)/(?P<body_part>XR_[A-Z]+)/(?P<patient>patient\d+)"
    r"/study\d+(?:_(?:positive|negative))?)/image(?P<view>\d+)\.(?:png|jpe?g)$"
)
_APPLE_DOUBLE = r"(?:^|/)\._[^/]*$"


class ManifestError(InputError):
    """The CSV files do not describe a data set that can be used."""


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder with the four CSV files.

    Args:
        root: The folder itself; None: ``MURA_ROOT`` in the environment, else ``data/MURA-v1.1``
            in the checkout where that exists, else ``data/phantom/MURA-v1.1``.
    """
    if root is not None:
        return Path(root)
    if os.environ.get("MURA_ROOT"):
        return Path(os.environ["MURA_ROOT"])
    data = project_folder() / "data"
    return data / "MURA-v1.1" if (data / "MURA-v1.1").is_dir() else data / "phantom" / "MURA-v1.1"


def read_manifest(root: str | Path) -> pd.DataFrame:
    """Read the four CSV files of a data folder.

    Args:
        root: The folder that holds them, named as the paths in them begin ("MURA-v1.1").

    Returns:
        One row per image in the CSV files' order: path (str, relative to the root's parent),
        split ("train" or "valid"), body_part (ordered categorical), patient (str), study (str,
        the whole study path: the key), view (int64), label (Int64: 0 normal, 1 abnormal, missing
        where unknown).

    Raises:
        FileNotFoundError: The folder or one of the CSV files is missing.
        ManifestError: A row is no image of this layout, leads out of the root or stands twice;
            a label is neither 0 nor 1; a study is labelled both ways.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: no such data folder; put MURA-v1.1 there, or draw the phantom with "
            "`mura phantom`."
        )
    missing = [
        name
        for split in SPLITS
        for name in (f"{split}_image_paths.csv", f"{split}_labeled_studies.csv")
        if not (root / name).is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f"{root}: {', '.join(missing)} missing; name the folder that holds MURA's four CSV "
            "files."
        )
    tables = []
    for split in SPLITS:
        file = root / f"{split}_image_paths.csv"
        images = read_image_paths(file)
        _refuse(file, images["path"], images["split"] != split, f"not in {split}/")
        prefix = root.resolve().name + "/"
        _refuse(
            file,
            images["path"],
            ~images["path"].str.startswith(prefix),
            f"outside the root: expected paths that begin with {prefix!r}, the folder's name",
        )
        labels = _read_labels(root / f"{split}_labeled_studies.csv")
        tables.append(images.assign(label=images["study"].map(labels).astype("Int64")))
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def read_image_paths(file: str | Path) -> pd.DataFrame:
    """Read a list of images, labelled or not (the competition's input).

    Returns:
        The columns of :func:`read_manifest`; label is the folder suffix's (missing without one).

    Raises:
        FileNotFoundError: There is no such file.
        ManifestError: A row is no image path of MURA's layout, leads out of the root or stands
            twice.
    """
    file = Path(file)
    paths = _read_lines(file).str.rstrip("/,")
    if len(paths) and not paths.iloc[0].lower().endswith((".png", ".jpg", ".jpeg")):
        paths = paths.iloc[1:]  # a header that some copies were given
    apple_double = paths.str.contains(_APPLE_DOUBLE)
    if apple_double.any():
        warnings.warn(
            f"{file}: left out {apple_double.sum()} AppleDouble files (._*), which are no images.",
            stacklevel=2,
        )
        paths = paths[~apple_double]
    if paths.empty:
        raise ManifestError(f"{file}: no image paths; expected one per line.")
    _refuse_escapes(file, paths)
    fields = paths.str.extract(_IMAGE)
    bad = fields["study"].isna() | ~fields["body_part"].isin(BODY_PARTS)
    bad |= fields["view"].str.len() > 9
    _refuse(file, paths, bad, "no image of MURA's layout (SPLIT/XR_PART/patientN/studyN/imageN.png)")
    _refuse(file, paths, paths.duplicated(), "listed twice")
    suffix = fields["study"].str.extract(r"_(positive|negative)$")[0]
    return pd.DataFrame(
        {
            "path": paths,
            "split": fields["split"],
            "body_part": fields["body_part"].astype(BODY_PART_DTYPE),
            "patient": fields["patient"],
            "study": fields["study"],
            "view": fields["view"].astype("int64"),
            "label": suffix.map({"positive": 1, "negative": 0}).astype("Int64"),
        }
    ).reset_index(drop=True)


def split_patients(
    manifest: pd.DataFrame, tune_fraction: float = 0.1, seed: int = 0
) -> pd.Series:
    """Split train's patients into those a model is fitted on and those it is tuned on.

    Patients are drawn within strata of body part and label (a patient with several studies
    counts in the stratum of the first), so the tune part has train's proportions.

    Args:
        manifest: As :func:`read_manifest` returns it.
        tune_fraction: Share of each stratum's patients, 0-1; at least one of two or more.
        seed: Of the draw.

    Returns:
        str per row, index-aligned: "fit" or "tune" for train, the split's own name otherwise.
    """
    part = manifest["split"].astype(object).copy()
    train = manifest[manifest["split"] == "train"]
    patients = train.drop_duplicates("patient").sort_values("patient")
    random = np.random.default_rng(seed)
    tune: list[str] = []
    strata = [patients["body_part"].astype(str), patients["label"].astype(str)]
    for _, names in patients.groupby(strata)["patient"]:
        count = max(round(tune_fraction * len(names)), int(len(names) > 1))
        tune += list(names.to_numpy()[random.permutation(len(names))[:count]])
    in_tune = train["patient"].isin(tune)
    part.loc[train.index] = np.where(in_tune, "tune", "fit")
    return part.rename("part")


def image_file(root: str | Path, path: str) -> Path:
    """Return where an image of the manifest lies on disk.

    Raises:
        ManifestError: The path, or a symbolic link in it, leads out of the root.
    """
    root = Path(root).resolve()
    file = root.parent / path
    if not file.resolve().is_relative_to(root):
        raise ManifestError(f"{file}: leads out of {root}; only files below it are read.")
    return file


def _read_labels(file: Path) -> pd.Series:
    """Return study path -> 0 or 1."""
    lines = _read_lines(file)
    if len(lines) and not lines.iloc[0].rsplit(",", 1)[-1].strip().isdigit():
        lines = lines.iloc[1:]  # a header
    if lines.empty:
        return pd.Series(dtype="int64")
    fields = lines.str.rsplit(",", n=1, expand=True).reindex(columns=[0, 1])
    labels = fields[1].str.strip()
    _refuse(file, lines, ~labels.isin(["0", "1"]), "expected STUDY/,0 or STUDY/,1")
    studies = fields[0].str.strip().str.rstrip("/")
    _refuse_escapes(file, studies)
    table = pd.DataFrame({"study": studies, "label": labels.astype("int64")}).drop_duplicates()
    twice = table["study"].duplicated(keep=False)
    _refuse(file, table["study"], twice, "labelled 0 and 1")
    return table.set_index("study")["label"]


def _read_lines(file: Path) -> pd.Series:
    """Return a CSV file's lines without blanks, quotes and BOM; the index counts from line 1."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such file; expected one of MURA's CSV files.") from None
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    series = pd.Series(lines, index=range(1, len(lines) + 1), dtype="str")
    series = series.str.replace("\0", "").str.replace('"', "").str.strip()
    series = series.str.replace("\\", "/", regex=False)
    return series[series != ""]


def _refuse_escapes(file: Path, paths: pd.Series) -> None:
    absolute = paths.str.match(r"^(?:/|~|[A-Za-z]:)")
    upward = paths.str.contains(r"(?:^|/)\.\.(?:/|$)")
    _refuse(file, paths, absolute | upward, "outside the root: absolute, or with '..'")


def _refuse(file: Path, rows: pd.Series, bad: pd.Series, what: str) -> None:
    if bad.any():
        found = [f"line {line}: {rows[line]!r:.120}" for line in rows.index[bad][:3]]
        raise ManifestError(
            f"{file}: {int(bad.sum())} rows {what} ({'; '.join(found)}); correct the file or take "
            "it from the original archive."
        )
