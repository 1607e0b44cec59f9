"""What there is to train on, and its pixels: manifest, images, cache and batches."""

import importlib
from typing import Any

from mura.data.images import ImageError, fit_square, load_square, read_gray, study_images
from mura.data.manifest import (
    ManifestError,
    assign_parts,
    body_parts,
    in_source_order,
    refuse_shared_patients,
    split_patients,
)
from mura.data.sources import (
    boxes,
    data_name,
    data_note,
    data_root,
    figures_folder,
    image_file,
    image_files,
    is_synthetic,
    phantom_folder,
    prepare,
    read,
)
from mura.data.sources.mura_lists import BODY_PART_DTYPE, BODY_PARTS


def __getattr__(name: str) -> Any:
    """Import the batches when they are asked for: an exported model answers without Keras."""
    if name not in ("Batches", "RadiographBatches", "batches", "loss_weights"):
        raise AttributeError(f"module 'mura.data' has no attribute {name!r}")
    module = importlib.import_module("mura.data.batches")
    globals()["batches"] = module.batches  # the function, not the module of that name
    return getattr(module, name)
