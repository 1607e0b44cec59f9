"""What there is to train on, and its pixels: manifest, images, cache and batches."""

from mura.data.batches import Batches, RadiographBatches, batches, loss_weights
from mura.data.folders import (
    data_name,
    figures_folder,
    is_synthetic,
    prepare,
    prepare_phantom,
)
from mura.data.images import ImageError, fit_square, load_square, read_gray
from mura.data.manifest import (
    BODY_PART_DTYPE,
    BODY_PARTS,
    ManifestError,
    assign_parts,
    data_root,
    image_file,
    image_files,
    refuse_shared_patients,
    split_patients,
)
from mura.data.manifest import read_manifest as read

__all__ = [
    "BODY_PARTS",
    "BODY_PART_DTYPE",
    "Batches",
    "ImageError",
    "ManifestError",
    "RadiographBatches",
    "assign_parts",
    "batches",
    "data_name",
    "data_root",
    "figures_folder",
    "fit_square",
    "image_file",
    "image_files",
    "is_synthetic",
    "load_square",
    "loss_weights",
    "prepare",
    "prepare_phantom",
    "read",
    "read_gray",
    "refuse_shared_patients",
    "split_patients",
]
