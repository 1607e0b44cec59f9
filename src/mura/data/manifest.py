"""The manifest: one row per image. Its columns, and the split of its patients into parts.

Every source hands over the same columns: path (str; ``data.image_files`` finds the file), split
("train" or "valid"), body_part (categorical, in the source's order), patient (str), study (str, the
key: unique over all patients), view (int64), label (Int64: 0 normal, 1 abnormal, missing where
unknown), excluded (str: "", or why the source leaves the image out). A source may add columns.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from mura.files import InputError

FEWEST = 10  # images of either label, for a body part to have weights and metrics of its own
SPLITS = ("train", "valid")
COLUMNS = ("path", "split", "body_part", "patient", "study", "view", "label", "excluded")


class ManifestError(InputError):
    """The lists of a data folder do not describe a data set that can be used."""


def fold_of(patient: str, folds: int) -> int:
    """Return which of some folds a patient is dealt to, from 0.

    It follows from the name alone, so a part of a data set is dealt exactly as the whole is. How
    balanced the folds are is reported, not enforced.
    """
    digest = hashlib.sha256(patient.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") * folds >> 64


def held_out(patient: str) -> bool:
    """Whether a patient is in ``valid``, as a fifth are, where a data set has no split of its own.

    These are the patients of the first of five folds.
    """
    return fold_of(patient, 5) == 0


def is_split_by_name(manifest: pd.DataFrame) -> bool:
    """Whether ``held_out`` split the data: they have no official validation part."""
    return bool(manifest["patient"].map(held_out).eq(manifest["split"] == "valid").all())


def in_source_order(parts: pd.Series, order: Iterable[str] = ()) -> pd.Series:
    """Return body parts as an ordered categorical: in their own order, else ``order``, else A-Z."""
    if not isinstance(parts.dtype, pd.CategoricalDtype):
        parts = parts.astype(str)
        found = set(parts)
        first = [part for part in order if part in found]
        parts = parts.astype(pd.CategoricalDtype([*first, *sorted(found.difference(first))]))
    return parts.cat.as_ordered()


def body_parts(manifest: pd.DataFrame) -> tuple[str, ...]:
    """Return the body parts that a manifest has images of, in the source's order."""
    return tuple(
        in_source_order(manifest["body_part"]).cat.remove_unused_categories().cat.categories
    )


def few_images(table: pd.DataFrame, images: pd.Series) -> list[str]:
    """Return the body parts with fewer than ``FEWEST`` normal or abnormal images, A-Z.

    ``table`` has the columns body_part and label; ``images`` is how many each row stands for.
    """
    label = table["label"].fillna(0).astype(int).rename("label")
    counts = images.groupby([table["body_part"].astype(str), label]).sum().unstack(fill_value=0)
    counts = counts.reindex(columns=[0, 1], fill_value=0)
    return list(counts.index[counts.min(axis=1) < FEWEST])


def split_patients(manifest: pd.DataFrame, tune_fraction: float = 0.1, seed: int = 0) -> pd.Series:
    """Split train's patients into those a model is fitted on and those it is tuned on.

    Patients are drawn within strata of body part and label (a patient with several studies
    counts in the stratum of the first), so the tune part has train's proportions.

    Args:
        manifest: As ``data.read`` returns it.
        tune_fraction: Share of each stratum's patients, 0 to below 1; if it is not 0, at least
            one patient of two or more.
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
        count = max(round(tune_fraction * len(names)), int(tune_fraction > 0 and len(names) > 1))
        tune += list(names.to_numpy()[random.permutation(len(names))[:count]])
    part.loc[train.index] = np.where(train["patient"].isin(tune), "tune", "fit")
    return part.rename("part")


def files_inside(root: str | Path, base: Path, paths: Iterable[str]) -> list[Path]:
    """Return the files that paths below ``base`` name.

    Raises:
        ManifestError: A path, or a symbolic link in it, leads out of ``root``.
    """
    real_root = os.path.realpath(root)
    inside: set[str] = set()  # folders that were checked: several images share one
    files = []
    for path in paths:
        file, folder = f"{base}/{path}", path.rpartition("/")[0]
        if folder not in inside or os.path.islink(file):  # noqa: PTH114 (Path is slower)
            # realpath, not resolve(), which raises on links that lead to each other
            for one in (f"{base}/{folder}", file):
                if not Path(os.path.realpath(one)).is_relative_to(real_root):
                    raise ManifestError(f"{file}: leads out of {root}; only files in it are read.")
            inside.add(folder)
        files.append(Path(file))
    return files


def assign_parts(
    manifest: pd.DataFrame,
    chosen: Iterable[str] = (),
    tune_fraction: float = 0.1,
    train_fraction: float = 1.0,
    seed: int = 0,
    folds: int = 1,
    fold: int = 0,
) -> pd.DataFrame:
    """Return the manifest with the column ``part``: "fit", "tune", the split's name or "unused".

    Args:
        manifest: As ``data.read`` returns it.
        chosen: Body parts; images of others are unused. All if there are none.
        tune_fraction: Share of train's patients that choices are made on, as ``split_patients``.
        train_fraction: Share of the other train patients that is fitted; the rest is unused.
        seed: Of both draws.
        folds: 1 takes the split as it is. Of more, ``fold`` (from 0) is "valid" and the others are
            train. An official validation part is in no fold, and unused.

    Raises:
        ManifestError: The data have no such body part, a part lacks one of the labels, or a patient
            is in two parts.
    """
    known = body_parts(manifest)
    chosen = tuple(chosen) or known
    if unknown := sorted(set(chosen) - set(known)):
        raise ManifestError(f"no images of {', '.join(unknown)}; there are {', '.join(known)}.")
    if folds > 1:
        dealt = manifest["patient"].map(lambda patient: fold_of(patient, folds))
        split = (dealt == fold).map({True: "valid", False: "train"})
        if not is_split_by_name(manifest):
            split[manifest["split"] == "valid"] = "unused"
        manifest = manifest.assign(split=split)
    part = split_patients(manifest, tune_fraction, seed).astype(object)
    part[~manifest["body_part"].isin(chosen)] = "unused"
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
            found = f"only the labels {[int(x) for x in labels]} for {', '.join(chosen)}"
            needed = "a training needs normal and abnormal studies."
            raise ManifestError(f"the {name} part has {found}; {needed}")
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
