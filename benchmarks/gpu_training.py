"""Training on a GPU: images per second from the pixel cache, beside the limit.

KERAS_BACKEND=jax python benchmarks/gpu_training.py      about fifteen minutes on a GPU

Needs no TensorFlow. Each network is compiled as `mura train` compiles it (mixed bfloat16, XLA,
augmentation in front) and timed in epochs of the phantom: fed from the pixel cache, and fed with
one batch again and again, which is the limit. Without a GPU this measures nothing.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import OURS, interleaved, project_model, report, seconds, table

MURA_TRAINING_IMAGES = 36_808
LIMIT = "one batch again and again"
# name: image size, batch, images of an epoch; DenseNet-169 at the paper's resolution
SIZES = {"densenet169": (320, 64, 4096), "resnet50": (224, 128, 8192)}
SIZES |= {"vgg16": (224, 128, 8192), "convnext_tiny": (224, 128, 8192)}


def epochs(
    name: str, size: int, batch: int, images: int, pixels: Any
) -> dict[str, Callable[[], float]]:
    """Return functions that measure images/s of an epoch: the limit, and from the cache.

    ``pixels`` is uint8[N, S, S], a cache's memory map; rows are repeated to fill an epoch.
    """
    import keras
    import numpy as np

    from mura.data import RadiographBatches

    trainer = project_model(name, size, "paper", batch_size=batch)
    rows = np.resize(np.arange(len(pixels)), images)
    labels = (rows % 2).astype(np.float32)[:, None]
    cached = RadiographBatches(pixels, rows, labels, batch_size=batch, shuffle_seed=0)

    class OneBatch(keras.utils.PyDataset):
        """The first batch again and again, as arrays of the backend on its device."""

        batch = tuple(keras.ops.convert_to_tensor(part) for part in cached[0])

        def __len__(self) -> int:
            return len(cached)

        def __getitem__(self, index: int) -> tuple:
            return self.batch

    limit: Any = OneBatch()
    if keras.backend.backend() == "tensorflow":  # whose steps wait for a PyDataset's next item
        import tensorflow as tf

        limit = tf.data.Dataset.from_tensors(OneBatch.batch).repeat(len(cached))

    def epoch(batches: Any) -> Callable[[], float]:
        # fit returns when the last step's loss is known, so the device is done by then
        return lambda: images / seconds(lambda: trainer.fit(batches, shuffle=False, verbose=0))

    measured = {LIMIT: epoch(limit), OURS: epoch(cached)}
    for first in measured.values():  # compilation is not what is measured
        first()
    return measured


def measured(name: str, size: int, batch: int, images: int, scale: float = 0.05) -> dict[str, Any]:
    """Return the result of one network, fed from a phantom of this scale."""
    from mura import data, phantom
    from mura.data.cache import cached

    with tempfile.TemporaryDirectory() as folder:
        root = phantom.generate(Path(folder) / "phantom", scale=scale, progress=False)
        pixels = cached(data.read(root), root, size, progress=False)
        figures = interleaved(epochs(name, size, batch, images, pixels))
    epoch = MURA_TRAINING_IMAGES / statistics.median(figures[OURS])
    note = f"An epoch of MURA ({MURA_TRAINING_IMAGES:,} images) takes {epoch:.0f} s."
    title = f"Training {name} on a GPU, {size} px, batches of {batch}"
    return table(title, "images/s", figures, LIMIT, note)


if __name__ == "__main__":
    from mura.training import device

    if device.device_kind() == "gpu":
        report(*(measured(name, *sizes) for name, sizes in SIZES.items()))
    else:
        report({"title": "Training on a GPU", "rows": [], "note": "Not measured: no GPU here."})
