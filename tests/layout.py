"""Folders of a few noise images, written by hand, in MURA's layout and in FracAtlas's."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

PREFIX = "MURA-v1.1"
# split, body part, patient, study, label, views
STUDIES = (
    ("train", "XR_WRIST", 1, 1, 1, 3),
    ("train", "XR_WRIST", 1, 2, 0, 1),
    ("train", "XR_HAND", 1, 1, 0, 2),
    ("train", "XR_ELBOW", 2, 1, 0, 2),
    ("train", "XR_SHOULDER", 3, 1, 1, 2),
    ("train", "XR_FOREARM", 4, 1, 0, 1),
    ("valid", "XR_FINGER", 5, 1, 1, 2),
    ("valid", "XR_HUMERUS", 6, 1, 0, 3),
)


FRACATLAS_HEAD = (
    "image_id,hand,leg,hip,shoulder,mixed,hardware,multiscan,"
    "fractured,fracture_count,frontal,lateral,oblique"
)


def study_path(split: str, part: str, patient: int, study: int, label: int | None) -> str:
    suffix = {1: "_positive", 0: "_negative", None: ""}[label]
    return f"{PREFIX}/{split}/{part}/patient{patient:05d}/study{study}{suffix}"


def noise(seed: int, height: int = 48, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **settings) -> bytes:
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, kind, **settings)
    return file.getvalue()


def dicom(
    pixels: np.ndarray, photometric="MONOCHROME2", syntax="", compression="", **header
) -> bytes:
    """Return a DICOM file of [H, W], [H, W, 3] or, with NumberOfFrames, one more axis."""
    from pydicom import uid
    from pydicom.dataset import Dataset, FileMetaDataset

    dataset, file = Dataset(), io.BytesIO()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax or uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "ID-4711"
    first = 1 if "NumberOfFrames" in header else 0
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, *_ = (*pixels.shape[first:], 1)
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PhotometricInterpretation = photometric
    for key, value in header.items():
        setattr(dataset, key, value)
    if "HighBit" not in dataset:
        dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    if compression:
        dataset.compress(getattr(uid, compression))
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def write_layout(folder: Path, studies=STUDIES) -> Path:
    """Write images and the four CSV files below ``folder``; return the data folder."""
    root = folder / PREFIX
    lists: dict[str, list[str]] = {
        f"{split}_{kind}.csv": []
        for split in ("train", "valid")
        for kind in ("image_paths", "labeled_studies")
    }
    seed = 0
    for split, part, patient, study, label, views in studies:
        place = study_path(split, part, patient, study, label)
        (folder / place).mkdir(parents=True)
        lists[f"{split}_labeled_studies.csv"].append(f"{place}/,{label}")
        for view in range(1, views + 1):
            lists[f"{split}_image_paths.csv"].append(f"{place}/image{view}.png")
            (folder / place / f"image{view}.png").write_bytes(encoded(noise(seed, 40 + seed, 50)))
            seed += 1
    for name, lines in lists.items():
        write_lines(root / name, lines)
    return root


def fracatlas_path(number: int, label: int) -> str:
    return f"images/{'Fractured' if label else 'Non_fractured'}/IMG{number:07d}.jpg"


def write_fracatlas(root: Path, images) -> Path:
    """Write images of a number, flagged parts ("leg+hip"), a label and, if given, a content.

    Fractured ones have one box, from 3/8 to 5/8 of the width and 1/4 to 3/4 of the height.
    """
    for place in ("images/Fractured", "images/Non_fractured", "Annotations/YOLO"):
        (root / place).mkdir(parents=True)
    lines = [FRACATLAS_HEAD]
    for number, parts, label, *content in images:
        flags = [int(part in parts.split("+")) for part in ("hand", "leg", "hip", "shoulder")]
        file = root / fracatlas_path(number, label)
        row = [file.name, *flags, int("+" in parts), number % 2, 0, label, label, 1, 0, 0]
        lines.append(",".join(map(str, row)))
        file.write_bytes(content[0] if content else encoded(noise(number, 96, 80), "JPEG"))
        boxes = root / "Annotations" / "YOLO" / f"{file.stem}.txt"
        boxes.write_text("0 0.5 0.5 0.25 0.5\n" * label)
    write_lines(root / "dataset.csv", lines)
    return root


def write_lines(file: Path, lines: list[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()
