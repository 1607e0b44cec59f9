"""The model card: what a run is, how good, and what it must not be taken for.

After Mitchell et al. 2019 (arXiv 1810.03993), as far as a run's own files can tell.
"""

from collections.abc import Mapping
from typing import Any

from mura.data import is_synthetic
from mura.evaluation import counted, with_interval
from mura.evaluation.tables import TOO_FEW
from mura.training.checkpoint import diverged

SHOWN = {"kappa": "Cohen's kappa", "auroc": "AUROC"}
SHOWN |= {"sensitivity": "sensitivity", "specificity": "specificity"}


def model_card(
    name: str, recipe: Mapping[str, Any], facts: Mapping[str, Any], metrics: Mapping[str, Any]
) -> str:
    """Return a run's README.md: data, recipe, starting weights, results, limits, intended use.

    Args:
        name: The run's.
        recipe: What ``recipe.json`` holds.
        facts: What ``environment.json`` holds.
        metrics: As ``evaluation.run_metrics`` returns them.
    """
    data = facts["data"]
    counts = ", ".join(f"{count:,} {part}" for part, count in data["images"].items())
    note = f"; {data['note']}" if data.get("note") else ""
    lines = [
        f"# Model card: {name}\n",
        f"`{recipe['architecture']}` for musculoskeletal radiographs: a gray image in, the "
        "probability of *abnormal* out. Research software, **not a medical device**: it must not "
        "be used to diagnose or to decide on treatment.\n",
        "| | |\n|---|---|",
        f"| Data | {data['name']}: {counts} images; patients never cross parts{note} |",
        f"| Body parts | {', '.join(recipe['body_parts'])} |",
        f"| Problem | {recipe['head']} head |",
        f"| Weights it started from | {facts['weights']} |",
        f"| Input | uint8 gray, {recipe['image_size']} x {recipe['image_size']} pixels, padded |",
        f"| Parameters | {facts['parameters']:,} |",
        f"| Epochs | {facts['epochs']}, {_kept(recipe, facts)} |",
        f"| Optimizer | {facts['optimizer']}, {recipe['schedule']} schedule |",
        f"| Training | {facts['training_seconds']:.0f} s, {facts['images_per_second']:.0f} "
        f"images/s on {facts['compute']['device']} ({facts['compute']['precision']}) |",
        f"\n## Results on {metrics['split']}\n",
        *_results(metrics),
        "\n## Limits\n",
        *(f"- {limit}" for limit in _limits(recipe, data["name"])),
        "\n## Recipe\n\n```",
        *(f"{key}: {value}" for key, value in recipe.items()),
        "```\n",
    ]
    return "\n".join(lines)


def _kept(recipe: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    if recipe.get("keep") == "last":
        last = f"epoch {facts['best_epoch']} was kept, the last, as the recipe says"
        return f"{last}; {diverged(facts['diverged'])}" if facts["diverged"] else last
    if facts["kept"] == "last epoch":
        return "the last was kept: `training.Checkpoint` did not watch this training"
    best = f"the best on the tune part was {facts['best_epoch']}"
    return f"{best}; {diverged(facts['diverged'])}" if facts["diverged"] else best


def _results(metrics: Mapping[str, Any]) -> list[str]:
    rows = [row for row in metrics["table"] if row["metric"] in SHOWN]
    if not rows:
        return ["No labelled studies in this split, so there is nothing to report."]
    lines = [
        "Study level (mean over views, abnormal above 0.5), 95 % bootstrap intervals over "
        "patients; Wilson's, over patients, where no resample differs:\n",
        f"| group | studies | {' | '.join(SHOWN.values())} |",
        "|---|---" + "|---" * len(SHOWN) + "|",
    ]
    for group in dict.fromkeys(row["group"] for row in rows):
        cells = {row["metric"]: row for row in rows if row["group"] == group}
        shown = " | ".join(_interval(cells[metric]) for metric in SHOWN)
        studies = counted(cells["kappa"]["studies"], cells["kappa"]["abnormal"])
        lines.append(f"| {group} | {studies} | {shown} |")
    return lines


def _interval(row: Mapping[str, Any]) -> str:
    if row["note"].startswith(TOO_FEW):
        return TOO_FEW
    if row["value"] is None:
        return f"undefined ({row['note']})"
    if row["low"] is None:
        return f"{row['value']:.3f} ({row['note']})"
    return with_interval(row["value"], row["low"], row["high"])


def _limits(recipe: Mapping[str, Any], data: str) -> list[str]:
    missed = ", which miss findings (Oakden-Rayner 2019)" if data == "MURA-v1.1" else ""
    weighed = (
        ": the loss weighs normal and abnormal images of a body part alike, so a probability "
        "is one among as many of either, too high where fewer are abnormal"
    )
    synthetic = (
        "**Trained and evaluated on synthetic images.** These figures say that the path "
        "works, and nothing about radiographs."
    )
    radiographs = (
        "Evaluated on the data set it was trained on, of other patients. The data tell no "
        "age, sex, indication or device, so nothing is known of results by these, nor of "
        "another hospital's."
    )
    return [
        f"*Abnormal* means what the labels of {data} call 1{missed}. They are per study: a "
        "normal-looking view of an abnormal study counts as abnormal.",
        f"Only {', '.join(recipe['body_parts'])}; no other anatomy, no other modality.",
        f"Probabilities are not calibrated{weighed if recipe['weighted_loss'] else ''}. The "
        "table's operating point is 0.5; `mura predict` calibrates and decides by the tune part.",
        synthetic if is_synthetic(data) else radiographs,
    ]
