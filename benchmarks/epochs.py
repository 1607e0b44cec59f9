"""An epoch fed from the pixel cache beside the same compiled model's fed from memory.

python benchmarks/epochs.py              the CNN and DenseNet-121, a minute on two cores
python benchmarks/epochs.py --every      every architecture, a quarter of an hour
python benchmarks/run.py epochs --every  ... and write them to the results page
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from measure import built, interleaved, judged, report, seconds, table

BY_DEFAULT = ("cnn", "densenet121")
# images of an epoch, so that each takes a second or more; at the quick recipe's size and batches
IMAGES = {"cnn": 768}
IMAGES_OF_OTHERS = 192
IN_MEMORY = "plain fit, everything in memory"
LIMIT = "tf.data from memory, its autotuning off"
FROM_CACHE = "this project: pixel cache, in batches"
WAYS = {"plain fit, s": IN_MEMORY, "tf.data, s": LIMIT, "cache, s": FROM_CACHE}  # columns
AIM = (FROM_CACHE, "at most", 1.03)
NOTE = (
    "The same compiled model, augmentation in it, fed in three ways. Arrays go through tf.data "
    "with its autotuning on, whose thread may hold up the end of an epoch (`mura.pixels` says "
    "how); the limit is without that wait. The cache was read before, as after an epoch."
)


def epochs(name: str, repetitions: int = 5, **changes: Any) -> dict[str, Any]:
    """Return the result of one architecture's epochs, in each of the three ways.

    Args:
        name: The architecture.
        repetitions: How often each way is measured.
        **changes: Settings of the quick recipe, and ``images``: how many an epoch has.
    """
    import numpy as np
    import tensorflow as tf

    from mura.data.batches import RadiographBatches
    from mura.data.feeding import feed
    from mura.training import device as compute
    from mura.training import loop as trainers
    from mura.training.recipes import recipe

    count = changes.pop("images", IMAGES.get(name, IMAGES_OF_OTHERS))
    compute.keep_freed_memory()
    # every recipe for radiographs augments; some quick ones do not
    augmented = {"flip": True, "rotation": 30.0, "shift": 0.05}
    chosen = recipe(name, weights="none", **augmented, **changes)
    plan, size = compute.policy(name), chosen.image_size
    trainer = trainers.compose_trainer(chosen, built(name, size, plan.precision), plan)
    [stage] = trainers.stages(chosen, pretrained=False)
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (count, 1)).astype("float32")
    weights = np.ones(count, np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "epoch.pixels"
        random.integers(0, 256, (count, size, size), dtype=np.uint8).tofile(file)
        pixels = np.memmap(file, np.uint8, "r", shape=(count, size, size))
        batches = RadiographBatches(
            pixels, np.arange(count), labels, weights, chosen.batch_size, shuffle_seed=0
        )
        memory = np.array(pixels)[..., None]
        options = tf.data.Options()
        options.autotune.enabled = False
        dataset = tf.data.Dataset.from_tensor_slices((memory, labels, weights)).shuffle(count)
        dataset = dataset.batch(chosen.batch_size).prefetch(2).with_options(options)
        trainers.compile_trainer(trainer, chosen, stage, len(batches), plan)

        def epoch(*data: Any, **settings: Any) -> Callable[[], float]:
            return lambda: seconds(lambda: trainer.fit(*data, verbose=0, **settings))

        candidates = {
            IN_MEMORY: epoch(memory, labels, chosen.batch_size, sample_weight=weights),
            LIMIT: epoch(dataset, shuffle=False),
            FROM_CACHE: epoch(feed(batches), shuffle=False),
        }
        for trace in candidates.values():
            trace()
        figures = interleaved(candidates, repetitions)
    result = table(
        f"An epoch of {count} images, {name}, {size} px, batches of {chosen.batch_size}",
        "seconds",
        figures,
        LIMIT,
        NOTE,
        AIM,
    )
    ours = result["rows"][-1]
    row = {"network": name, "precision": plan.precision, "px": size, "images": count}
    row |= {way: statistics.median(figures[key]) for way, key in WAYS.items()}
    row |= {"ratio": ours["ratio"], "aim": judged(ours, *AIM[1:])}
    return result | ({"epoch": row} if plan.device == "cpu" else {})


def main() -> None:
    from mura.models.architectures import ARCHITECTURES

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", nargs="*", default=BY_DEFAULT, choices=ARCHITECTURES)
    parser.add_argument("--every", action="store_true", help="all architectures")
    options, _ = parser.parse_known_args()
    names = list(ARCHITECTURES) if options.every else options.architectures
    # each in a process of its own, which takes what it has traced with it
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as one:
        report(*one.map(epochs, names))


if __name__ == "__main__":
    main()
