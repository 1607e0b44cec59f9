"""Does the compute policy change how good a network gets? AUROC by seed, policy and plain Keras.

python benchmarks/precision.py [--seeds 5] [--scale 0.14] [--architecture cnn]

About three and a half minutes per training on two cores, so not part of `make benchmark`. Each
seed trains twice on the same phantom, in float32 with Keras's own kernels and as the policy chooses
(bfloat16, fused kernels); the difference of the two means is held against the spread over seeds.
Three seeds say too little of that spread: the first three of five once gave a difference of 0.014,
all five 0.0002.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import measure  # noqa: F401  (silences TensorFlow before it is imported)


def study_auroc(run) -> float:
    """Return the AUROC of a run's valid studies."""
    from sklearn.metrics import roc_auc_score

    valid = run.predictions[run.predictions["split"] == "valid"]
    studies = valid.groupby("study").agg({"label": "first", "probability": "mean"})
    return float(roc_auc_score(studies["label"].astype(int), studies["probability"]))


def compare(
    root: Path, models: Path, architecture: str, seeds: int, **changes
) -> dict[str, list[float]]:
    """Train each seed plainly and as the policy chooses; return the AUROCs of both."""
    from mura.training.recipes import recipe
    from mura.training.train import train

    ways = {"plain": {"precision": "float32", "fused": False}, "policy": {}}
    found: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(seeds):
        for way, settings in ways.items():
            chosen = recipe(architecture, seed=seed, **settings, **changes)
            found[way].append(study_auroc(train(chosen, root, f"{way}-{seed}", models)))
    return found


def verdict(found: dict[str, list[float]]) -> str:
    """Say how the difference of the means compares with seed noise.

    Seeds are paired, but what a seed does differs between them after a few steps, so the
    noise is that of two independent means: s * sqrt(2 / n), s pooled over both.
    """
    lines = [
        f"{way:8} {' '.join(f'{value:.4f}' for value in values)}   mean "
        f"{statistics.mean(values):.4f}, standard deviation {statistics.stdev(values):.4f}"
        for way, values in found.items()
    ]
    one, two = found.values()
    pooled = ((statistics.variance(one) + statistics.variance(two)) / 2) ** 0.5
    noise = pooled * (2 / len(one)) ** 0.5
    difference = statistics.mean(two) - statistics.mean(one)
    inside = "within" if abs(difference) <= 2 * noise else "beyond"
    lines.append(
        f"difference of the means {difference:+.4f}, {inside} twice its seed noise ({noise:.4f})"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=0.14)
    parser.add_argument("--architecture", default="cnn")
    parser.add_argument("--epochs", type=int, help="the quick profile's without it")
    parser.add_argument("--image-size", type=int, help="the quick profile's without it")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("seed noise needs at least two seeds")
    from mura import phantom

    with tempfile.TemporaryDirectory() as folder:
        root = phantom.generate(Path(folder) / "phantom", scale=options.scale, progress=False)
        found = compare(
            root,
            Path(folder) / "models",
            options.architecture,
            options.seeds,
            epochs=options.epochs,
            image_size=options.image_size,
        )
    print(verdict(found))


if __name__ == "__main__":
    main()
