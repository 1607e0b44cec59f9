"""What there is to train on, and its pixels: manifest, images, cache and batches."""

import importlib
from typing import Any

from mura.data.images import ImageError, fit_square, load_square, read_gray, study_images
from mura.data.manifest import (
    BODY_PART_DTYPE,
    BODY_PARTS,
    ManifestError,
    assign_parts,
    image_file,
    image_files,
    refuse_shared_patients,
    split_patients,
)
from mura.data.sources import (
    data_name,
    data_root,
    figures_folder,
    is_synthetic,
    phantom_folder,
    prepare,
)
from mura.data.sources.mura import read


def __getattr__(name: str) -> Any:
    """Import the batches when they are asked for: an exported model answers without Keras."""
    if name not in ("Batches", "RadiographBatches", "batches", "loss_weights"):
        raise AttributeError(f"module 'mura.data' has no attribute {name!r}")
    module = importlib.import_module("mura.data.batches")
    globals()["batches"] = module.batches  # the function, not the module of that name
    return getattr(module, name)
