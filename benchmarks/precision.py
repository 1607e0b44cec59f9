"""Do the precision and kernels of this device change how good a network gets? AUROC by seed.

python benchmarks/precision.py [--seeds 5] [--architecture cnn]

About three and a half minutes per training on two cores, so not part of `make benchmark`. Each
seed trains twice on the default phantom: in float32 with Keras's own kernels, and as the device
suggests (bfloat16, fused kernels). The difference of the two means is held against the spread over
seeds; three seeds are too few to know it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from mura import data, evaluation, training

PLAIN, OURS = "plain Keras", "this project"


def compare(
    root: Path, folder: Path, architecture: str, seeds: int, **changes
) -> dict[str, list[float]]:
    """Train each seed in both ways; return the AUROCs of the valid studies."""
    ways = {PLAIN: {"precision": "float32", "fused": False}, OURS: {}}
    found: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(seeds):
        for way, settings in ways.items():
            recipe = training.recipe(architecture, seed=seed, **settings, **changes)
            run = training.train(recipe, root, f"{way} {seed}", folder)
            studies = evaluation.run_studies(run)
            answers = (studies["label"], studies["probability"])
            found[way].append(evaluation.metric_values(*answers, metrics=["auroc"])["auroc"])
    return found


def verdict(found: dict[str, list[float]]) -> str:
    """Say how the difference of the means compares with seed noise.

    Seeds are paired, but what a seed does differs between them after a few steps, so the
    noise is that of two independent means: s * sqrt(2 / n), s pooled over both.
    """
    lines = [
        f"{way:12} {' '.join(f'{value:.4f}' for value in values)}   mean "
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="at least 2")
    parser.add_argument("--architecture", default="cnn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = data.prepare(data.phantom_folder() / "MURA-v1.1")
        print(verdict(compare(root, Path(folder), options.architecture, options.seeds)))
