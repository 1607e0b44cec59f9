"""Describe a MURA-layout folder as a table with one row per image, and split its patients."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from mura.data.sources.mura import (
    BODY_PART_DTYPE,
    BODY_PARTS,
    ManifestError,
    list_images,
    list_labels,
    usable,
)
from mura.files import absolute, project_folder

__all__ = [
    "BODY_PARTS",
    "BODY_PART_DTYPE",
    "COLUMNS",
    "CSV_FILES",
    "SPLITS",
    "ManifestError",
    "data_folder",
    "data_root",
    "image_file",
    "image_files",
    "read_manifest",
    "split_patients",
]

SPLITS = ("train", "valid")
CSV_FILES = tuple(
    f"{split}_{kind}.csv" for split in SPLITS for kind in ("image_paths", "labeled_studies")
)
COLUMNS = ("path", "split", "body_part", "patient", "study", "view", "label")


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder with the four CSV files.

    Args:
        root: The folder itself; None: ``MURA_ROOT`` in the environment, else ``data/MURA-v1.1``
            in the checkout if that exists, else ``data/phantom/MURA-v1.1``. A relative
            ``MURA_ROOT`` starts at the checkout. A leading ``~`` is the home folder.
    """
    if root is None and os.environ.get("MURA_ROOT"):
        root = project_folder() / Path(os.environ["MURA_ROOT"]).expanduser()
    if root is not None:
        root = Path(root).expanduser()
        # a run records the folder's name, and "." has none
        return absolute(root) if root.name in ("", "..") else root
    data = project_folder() / "data"
    return data / "MURA-v1.1" if (data / "MURA-v1.1").is_dir() else data / "phantom" / "MURA-v1.1"


def read_manifest(root: str | Path) -> pd.DataFrame:
    """Read the four CSV files of a data folder.

    Args:
        root: The folder that holds them; their paths begin with its name ("MURA-v1.1").

    Returns:
        One row per image in the CSV files' order: path (str, relative to the root's parent),
        split ("train" or "valid"), body_part (ordered categorical), patient (str), study (str,
        the whole study path: the key), view (int64), label (Int64: 0 normal, 1 abnormal, missing
        where unknown).

    Raises:
        FileNotFoundError: The folder or one of the CSV files is missing.
        ManifestError: A row is no image of this layout, leads out of the root or is listed twice;
            a label is neither 0 nor 1; a study is labelled both ways.
    """
    root = data_folder(root)
    tables = []
    for split in SPLITS:
        file = root / f"{split}_image_paths.csv"
        images = usable(file, list_images(file, split, root.name), root.name)
        file = root / f"{split}_labeled_studies.csv"
        labels = list_labels(file, split, root.name)
        labels = usable(file, labels[labels["problem"] != "duplicate-row"], root.name)
        labels = labels.set_index("study")["label"]
        _warn_of_unmatched_names(file, images["study"], labels.index)
        tables.append(images.assign(label=images["study"].map(labels).astype("Int64")))
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def _warn_of_unmatched_names(file: Path, studies: pd.Series, labelled: pd.Index) -> None:
    """Warn if studies lack labels while labels lack studies: their names differ."""
    without_images = labelled[~labelled.isin(studies)]
    if len(without_images) and not studies.isin(labelled).all():
        warnings.warn(
            f"{file}: {len(without_images):,} of its {len(labelled):,} studies have no image "
            f"listed, for example {without_images[0]!r:.120}, and listed ones have no label; "
            "labels are given per study folder, named as the images' paths name it.",
            stacklevel=3,
        )


def data_folder(root: str | Path) -> Path:
    """Check that a data folder has its four CSV files; return its absolute path.

    Raises:
        FileNotFoundError: The folder or one of the CSV files is missing.
    """
    root = absolute(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: no such data folder; put MURA-v1.1 there, or draw the phantom with "
            "`mura phantom`."
        )
    missing = [name for name in CSV_FILES if not (root / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{root}: {', '.join(missing)} missing; name the folder that holds MURA's four CSV "
            "files."
        )
    return root


def split_patients(manifest: pd.DataFrame, tune_fraction: float = 0.1, seed: int = 0) -> pd.Series:
    """Split train's patients into those a model is fitted on and those it is tuned on.

    Patients are drawn within strata of body part and label (a patient with several studies
    counts in the stratum of the first), so the tune part has train's proportions.

    Args:
        manifest: As :func:`read_manifest` returns it.
        tune_fraction: Share of each stratum's patients, 0-1; at least one of two or more, unless
            it is 0.
        seed: Of the draw.

    Returns:
        str per row, index-aligned: "fit" or "tune" for train, the split's own name otherwise.
    """
    if not 0 <= tune_fraction < 1:
        raise ManifestError(f"tune_fraction {tune_fraction}: expected a share of 0 to below 1.")
    part = manifest["split"].astype(object).copy()
    train = manifest[manifest["split"] == "train"]
    patients = train.drop_duplicates("patient").sort_values("patient")
    random = np.random.default_rng(seed)
    tune: list[str] = []
    strata = [patients["body_part"].astype(str), patients["label"].astype(str)]
    for _, names in patients.groupby(strata)["patient"]:
        at_least = int(tune_fraction > 0 and len(names) > 1)
        count = max(round(tune_fraction * len(names)), at_least)
        tune += list(names.to_numpy()[random.permutation(len(names))[:count]])
    in_tune = train["patient"].isin(tune)
    part.loc[train.index] = np.where(in_tune, "tune", "fit")
    return part.rename("part")


def image_file(root: str | Path, path: str) -> Path:
    """Return where an image of the manifest lies on disk.

    Raises:
        ManifestError: The path, or a symbolic link in it, leads out of the root.
    """
    root = absolute(root)
    file = root.parent / path
    # realpath, not resolve(), which raises on links that lead to each other
    if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(root)):
        raise ManifestError(f"{file}: leads out of {root}; only files below it are read.")
    return file


def image_files(root: str | Path, paths: Iterable[str]) -> list[Path]:
    """Return where images lie on disk: :func:`image_file` for many, each folder checked once.

    Raises:
        ManifestError: One of them leads out of the root.
    """
    root = absolute(root)
    inside: set[str] = set()
    files = []
    for path in paths:
        folder = path.rpartition("/")[0]
        if folder not in inside:
            image_file(root, folder)
            inside.add(folder)
        if os.path.islink(f"{root.parent}/{path}"):  # noqa: PTH114 (a Path for each is slower)
            image_file(root, path)
        files.append(root.parent / path)
    return files


def assign_parts(
    manifest: pd.DataFrame,
    body_parts: Iterable[str] = BODY_PARTS,
    tune_fraction: float = 0.1,
    train_fraction: float = 1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the manifest with the column ``part``: "fit", "tune", the split's name or "unused".

    Args:
        manifest: As ``data.read`` returns it.
        body_parts: Images of others are unused.
        tune_fraction: Share of train's patients that choices are made on, as ``split_patients``.
        train_fraction: Share of the other train patients that is fitted; the rest is unused.
        seed: Of both draws.

    Raises:
        ManifestError: A part lacks one of the labels, or a patient is in two parts.
    """
    part = split_patients(manifest, tune_fraction, seed).astype(object)
    part[~manifest["body_part"].isin(list(body_parts))] = "unused"
    part[part.isin(["fit", "tune"]) & manifest["label"].isna()] = "unused"
    if train_fraction < 1:
        patients = np.sort(manifest.loc[part == "fit", "patient"].unique())
        order = np.random.default_rng(seed).permutation(len(patients))
        dropped = patients[order[max(1, round(train_fraction * len(patients))) :]]
        part[(part == "fit") & manifest["patient"].isin(dropped)] = "unused"
    manifest = manifest.assign(part=part)
    refuse_shared_patients(manifest)
    for name in ("fit", "tune"):
        labels = sorted(manifest.loc[manifest["part"] == name, "label"].unique())
        if len(labels) < 2:
            raise ManifestError(
                f"the {name} part has only the labels {[int(x) for x in labels]} for "
                f"{', '.join(body_parts)}; a training needs normal and abnormal studies."
            )
    return manifest


def refuse_shared_patients(manifest: pd.DataFrame) -> None:
    """Raise ManifestError where a patient is in two of the parts fit, tune and valid."""
    used = manifest[manifest["part"] != "unused"]
    parts = used.groupby("patient", observed=True)["part"].nunique()
    crossing = list(parts.index[parts > 1])
    if crossing:
        raise ManifestError(
            f"{len(crossing)} patients are in more than one part of the data, for example "
            f"{', '.join(crossing[:5])}: results would be measured on patients that the network "
            "was fitted on. `mura audit` of the data folder lists them."
        )
