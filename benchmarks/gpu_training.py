"""Training on a GPU: images per second beside those without reading images, and torchvision.

KERAS_BACKEND=jax python benchmarks/gpu_training.py      about fifteen minutes on a GPU

Needs no TensorFlow. Each network is compiled as `mura train` compiles it (mixed bfloat16, XLA,
augmentation in front), and timed in epochs of the phantom: fed from the pixel cache, and fed with
one batch again and again, the limit: on JAX it lies on the device already, on TensorFlow tf.data
holds it in the host's memory. The peer, where PyTorch with torchvision is installed, is
torchvision's DenseNet-169 in channels-last automatic mixed precision, compiled, on data already on
the device and without augmentation. What fails, of too little memory for example, is named below
the rows of the others. Without a GPU it measures nothing; ``--tiny`` runs the same steps at a tiny
size, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from measure import built, interleaved, report, seconds, table

MURA_TRAINING_IMAGES = 36_808
ON_DEVICE, ON_HOST = "data already on the device", "one batch in the host's memory (tf.data)"
OURS, PEER = "this project, from the cache", "torchvision, torch.compile"


@dataclass(frozen=True)
class Setting:
    """What is timed, and how large."""

    architecture: str
    image_size: int  # pixels
    batch_size: int
    images: int  # of an epoch


# DenseNet-169 at the paper's resolution, the others at that of their ImageNet weights
ON_GPU = (
    Setting("densenet169", 320, 64, 4096),
    Setting("resnet50", 224, 128, 8192),
    Setting("vgg16", 224, 128, 8192),
    Setting("convnext_tiny", 224, 128, 8192),
)
WITHOUT_GPU = (Setting("cnn", 32, 16, 128),)
STILL_OPEN = {
    "title": "Training on a GPU",
    "rows": [],
    "note": "**The GPU row is still open**: no GPU was at hand. Tests try the steps.",
}
PHANTOM_SCALE = {"gpu": 0.05, "cpu": 0.001}


def epochs(setting: Setting, pixels: Any, labels: Any) -> dict[str, Callable[[], float]]:
    """Return two functions that measure images/s of an epoch: the limit, and from the cache.

    Args:
        setting: What to train.
        pixels: uint8[N, S, S], a cache's memory map; rows are repeated to fill an epoch.
        labels: float32[N, 1].
    """
    import keras
    import numpy as np
    from mura.data.feeding import feed

    from mura.data.batches import RadiographBatches
    from mura.training import device as compute
    from mura.training import loop as trainers
    from mura.training.recipes import recipe

    chosen = recipe(
        setting.architecture,
        "modern",
        image_size=setting.image_size,
        batch_size=setting.batch_size,
        weights="none",
    )
    plan = compute.policy(setting.architecture)
    network = built(setting.architecture, setting.image_size, plan.precision)
    rows = np.resize(np.arange(len(pixels)), setting.images)
    weights = np.ones(len(rows), np.float32)
    cached = RadiographBatches(
        pixels, rows, labels[rows], weights, batch_size=setting.batch_size, shuffle_seed=0
    )
    trainer = trainers.compose_trainer(chosen, network, plan)
    [stage] = trainers.stages(chosen, pretrained=False)
    trainers.compile_trainer(trainer, chosen, stage, len(cached), plan)

    class OneBatch(keras.utils.PyDataset):
        """The first batch again and again, as arrays of the backend on its device."""

        batch = tuple(keras.ops.convert_to_tensor(part) for part in cached[0])

        def __len__(self) -> int:
            return setting.images // setting.batch_size

        def __getitem__(self, index: int) -> tuple:
            return self.batch

    def epoch(batches: Any, images: int) -> Callable[[], float]:
        def measure() -> float:
            # fit returns when the last step's loss is known, so the device is done by then
            taken = seconds(lambda: trainer.fit(batches, shuffle=False, verbose=0))
            # fit ends by making the averages the weights; on JAX both are then one buffer, which
            # the next fit would give away twice
            for weight in trainer.trainable_variables:
                weight.assign(keras.ops.copy(weight.value))
            return images / taken

        return measure

    name, limit = ON_DEVICE, OneBatch()
    if keras.backend.backend() == "tensorflow":  # whose steps wait for a PyDataset's next item
        import tensorflow as tf

        name, limit = ON_HOST, tf.data.Dataset.from_tensors(OneBatch.batch).repeat(len(limit))
    measured = {
        name: epoch(limit, len(OneBatch()) * setting.batch_size),
        OURS: epoch(feed(cached), len(rows)),
    }
    for first in measured.values():  # compilation is not what is measured
        first()
    return measured


def torchvision_peer(setting: Setting, steps: int = 30) -> Callable[[], float]:
    """Return a function that measures images/s of torchvision's DenseNet-169 on the GPU."""
    import torch
    import torchvision

    torch.backends.cudnn.benchmark = True  # choose the fastest kernels by trying, as XLA does
    model = torchvision.models.densenet169(num_classes=1).cuda()
    model = torch.compile(model.to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW(model.parameters())
    loss_of = torch.nn.BCEWithLogitsLoss()
    shape = (setting.batch_size, 3, setting.image_size, setting.image_size)
    images = torch.rand(shape, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.randint(0, 2, (setting.batch_size, 1), device="cuda").float()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(model(images), labels)
        loss.backward()
        optimizer.step()

    def measure() -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
        return steps * setting.batch_size / (time.perf_counter() - started)

    for _ in range(3):  # compilation is not what is measured
        step()
    return measure


def has_torchvision() -> bool:
    """Whether PyTorch with torchvision is installed and sees a GPU."""
    if not all(importlib.util.find_spec(name) for name in ("torch", "torchvision")):
        return False
    import torch

    return torch.cuda.is_available()


def attempt(name: str, work: Callable[[], Any], failures: dict[str, str]) -> Any:
    """Return what work returns; where it fails, None, with the error's first line noted."""
    try:
        return work()
    except Exception as error:
        first: BaseException = error
        while first.__context__:  # on JAX what Keras does after a failed step may fail in turn
            first = first.__context__
        failures[name] = ", after ".join(dict.fromkeys(map(first_line, (error, first))))
        return None


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def measure_all(settings: tuple[Setting, ...], device: str, repetitions: int) -> list[dict]:
    """Return one result per setting."""
    from mura import phantom
    from mura.data import read as read_manifest
    from mura.data.cache import cached

    results = []
    with tempfile.TemporaryDirectory() as folder:
        root = phantom.generate(
            Path(folder) / "phantom", scale=PHANTOM_SCALE[device], progress=False
        )
        manifest = read_manifest(root)
        manifest = manifest[manifest["label"].notna()].reset_index(drop=True)
        labels = manifest["label"].to_numpy("float32")[:, None]
        for setting in settings:
            pixels = cached(manifest, root, setting.image_size, progress=False)
            prepared = partial(epochs, setting, pixels, labels)
            failures: dict[str, str] = {}
            candidates = attempt(OURS, prepared, failures) or {}
            if setting.architecture == "densenet169" and device == "gpu" and has_torchvision():
                peer = attempt(PEER, partial(torchvision_peer, setting), failures)
                candidates |= {PEER: peer} if peer else {}
            figures = interleaved(
                {
                    name: partial(attempt, name, measure, failures)
                    for name, measure in candidates.items()
                },
                repetitions,
            )
            results.append(describe(setting, device, figures, failures))
    return results


def describe(
    setting: Setting, device: str, figures: dict[str, list[float]], failures: dict[str, str]
) -> dict:
    """Return a setting's result with what it means for a whole epoch of MURA, and what failed."""
    title = (
        f"Training {setting.architecture}, {setting.image_size} px, batches of "
        f"{setting.batch_size}, {device.upper()}"
    )
    figures = {name: values for name, values in figures.items() if name not in failures}
    notes = [f"Failed: {name} ({why})." for name, why in failures.items()]
    if device != "gpu":
        notes.append("A tiny size, to try the steps; its figures say nothing about a GPU.")
    elif OURS in figures:
        seconds_of_epoch = MURA_TRAINING_IMAGES / statistics.median(figures[OURS])
        notes.append(
            f"An epoch of MURA ({MURA_TRAINING_IMAGES:,} images) takes {seconds_of_epoch:.0f} s."
        )
    if not figures:
        return {"title": title, "rows": [], "note": " ".join(notes)}
    # the limit is the first; where it failed, the first that did not
    return table(title, "images/s", figures, next(iter(figures)), " ".join(notes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="try the steps where there is no GPU")
    options, _ = parser.parse_known_args()
    from mura.training import device as compute

    device = compute.device_kind()
    if device != "gpu" and not options.tiny:
        report(STILL_OPEN)
        return
    settings = ON_GPU if device == "gpu" else WITHOUT_GPU
    report(*measure_all(settings, device, options.repetitions))


if __name__ == "__main__":
    main()
