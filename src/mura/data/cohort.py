"""Describe a data set: its counts beside MURA's published ones, its facts, and samples of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mura.data.images import load_square, open_image, read_bytes, read_gray
from mura.data.manifest import BODY_PARTS, SPLITS, image_file
from mura.files import InputError
from mura.phantom import counts as published

UNITS = {"images": "path", "studies": "study"}
LABELS = ("normal", "abnormal")
_PUBLISHED = {"images": published.IMAGE_COUNTS, "studies": published.STUDY_COUNTS}


def count_table(manifest: pd.DataFrame, unit: str = "images") -> pd.DataFrame:
    """Count images or studies: int64, a row per body part and "all", a column per split and label.

    Args:
        manifest: As ``read_manifest`` returns it; images without a label are not counted.
        unit: ``"images"`` or ``"studies"``.
    """
    rows = manifest.dropna(subset="label").drop_duplicates(_column(unit))
    counts = rows.groupby(["body_part", "split", "label"], observed=True).size()
    cells = {
        (split, name): counts.reindex(
            [(part, split, label) for part in BODY_PARTS], fill_value=0
        ).to_numpy()
        for split in SPLITS
        for label, name in enumerate(LABELS)
    }
    return _with_sum(pd.DataFrame(cells, index=list(BODY_PARTS)))


def published_table(unit: str = "images") -> pd.DataFrame:
    """Return MURA v1.1's counts in the form of :func:`count_table`."""
    _column(unit)
    cells = {
        (split, name): [_PUBLISHED[unit][split][part][label] for part in BODY_PARTS]
        for split in SPLITS
        for label, name in enumerate(LABELS)
    }
    return _with_sum(pd.DataFrame(cells, index=list(BODY_PARTS)))


def patient_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """Count patients: a row per fact, columns (split, "here") and (split, "published")."""
    studies = manifest.drop_duplicates("study")
    columns: dict[tuple[str, str], list[int]] = {}
    for split in SPLITS:
        by_patient = studies[studies["split"] == split].groupby("patient", observed=True)
        columns[split, "here"] = [
            by_patient.ngroups,
            int((by_patient["body_part"].nunique() > 1).sum()),
            int((by_patient["label"].nunique() > 1).sum()),
        ]
        columns[split, "published"] = [
            published.PATIENT_COUNTS[split],
            published.PATIENTS_WITH_SEVERAL_PARTS[split],
            published.PATIENTS_WITH_BOTH_LABELS[split],
        ]
    facts = ["patients", "with several body parts", "with normal and abnormal studies"]
    return pd.DataFrame(columns, index=facts)


def statements(manifest: pd.DataFrame) -> list[str]:
    """Say in sentences what the counts of a data set mean for a training on it."""
    images, splits = count_table(manifest), manifest["split"].value_counts()
    train = images["train"].drop("all").sum(axis=1).sort_values(ascending=False)
    valid = images["valid"].drop("all").sum(axis=1).sort_values(ascending=False)
    patients = manifest.drop_duplicates(["patient", "split"])["patient"]
    names = manifest["study"].str.extract(r"(study\d+)")[0]
    repeated = manifest.assign(name=names).drop_duplicates("study")
    colliding = repeated.loc[repeated.duplicated(["patient", "name"]), "patient"].nunique()
    most, fewest = train.index[:2], train.index[:-3:-1]
    return [
        f"Train holds {splits['train'] / len(manifest):.1%} of the {len(manifest):,} images, valid "
        f"{splits['valid'] / len(manifest):.1%}; {patients.duplicated().sum()} patients are in "
        "both.",
        f"Most frequent in train: {_listed(train[most])}; rarest: {_listed(train[fewest])}.",
        f"In valid: {_listed(valid)}.",
        *(
            f"In {split}, abnormal images outnumber normal ones for {_mostly_abnormal(counts)}."
            for split, counts in ((split, images[split]) for split in SPLITS)
        ),
        *_prevalence(manifest),
        f"`study1` repeats: {colliding:,} patients have studies of one number for several body "
        "parts, so a study's key is its whole path.",
    ]


def _prevalence(manifest: pd.DataFrame) -> list[str]:
    """Say how far the share of abnormal studies differs between the splits, if that is known."""
    counts = count_table(manifest, "studies")
    share = pd.DataFrame(
        {split: counts[split].abnormal / counts[split].sum(axis=1) for split in SPLITS}
    ).dropna()
    apart = (share["valid"] - share["train"]).drop("all", errors="ignore").abs()
    if apart.empty:
        return []
    train, valid = (share[split].map("{:.1%}".format) for split in SPLITS)
    part = apart.idxmax()
    return [
        f"Of train's studies {train['all']} are abnormal, of valid's {valid['all']}; furthest "
        f"apart for {_name(part)}: {train[part]} and {valid[part]}. What is calibrated on train's "
        "patients need not be on valid's."
    ]


def image_facts(
    root: str | Path, manifest: pd.DataFrame, count: int, seed: int = 0
) -> pd.DataFrame:
    """Read the headers of a random sample of images.

    Returns:
        DataFrame[path, width, height (pixels), mode (Pillow's, "L": gray)], at most ``count`` rows.

    Raises:
        ImageError: An image is missing or no image.
    """
    rows = []
    for path in _sample(manifest, count, seed)["path"]:
        file = image_file(root, path)
        with open_image(read_bytes(file), file) as image:
            rows.append((path, *image.size, image.mode))
    return pd.DataFrame(rows, columns=["path", "width", "height", "mode"])


def sample_images(
    root: str | Path, manifest: pd.DataFrame, per_label: int = 3, seed: int = 0
) -> dict[str, dict[str, list[np.ndarray]]]:
    """Return random radiographs, uint8[H, W], by body part and "normal" or "abnormal".

    One view of each chosen study; body parts without both labels are left out.

    Raises:
        ImageError: An image is missing or cannot be decoded.
    """
    first = manifest.drop_duplicates("study")
    samples: dict[str, dict[str, list[np.ndarray]]] = {}
    for part in BODY_PARTS:
        chosen = {
            name: first[(first["body_part"] == part) & (first["label"] == label)]
            for label, name in enumerate(LABELS)
        }
        if all(len(rows) for rows in chosen.values()):
            samples[part] = {
                name: [
                    read_gray(image_file(root, path))
                    for path in _sample(rows, per_label, seed)["path"]
                ]
                for name, rows in chosen.items()
            }
    return samples


def sample_pixels(
    root: str | Path, manifest: pd.DataFrame, per_part: int = 60, size: int = 128, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return random radiographs of each body part as uint8[N, size, size], padded with black.

    Raises:
        ImageError: An image is missing or cannot be decoded.
    """
    return {
        part: np.stack(
            [
                load_square(image_file(root, path), size)
                for path in _sample(rows, per_part, seed)["path"]
            ]
        )
        for part, rows in manifest.groupby("body_part", observed=True)
    }


def _column(unit: str) -> str:
    if unit not in UNITS:
        raise InputError(f"unit {unit!r}: choose one of {', '.join(UNITS)}.")
    return UNITS[unit]


def _with_sum(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.sum().to_frame("all").T]).astype(np.int64)


def _sample(rows: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    return rows.sample(min(count, len(rows)), random_state=seed)


def _listed(counts: pd.Series) -> str:
    return ", ".join(f"{_name(part)} {count:,}" for part, count in counts.items())


def _mostly_abnormal(counts: pd.DataFrame) -> str:
    more = [_name(part) for part in BODY_PARTS if counts.abnormal[part] > counts.normal[part]]
    return ", ".join(more) or "no body part"


def _name(part: str) -> str:
    return part.removeprefix("XR_").lower()
