"""Find what is wrong with a data set: its lists, its labels and every image file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from tqdm.auto import tqdm

from mura.data import sources
from mura.data.image_checks import ImageFacts, Issue, check_image, find_copies
from mura.data.manifest import SPLITS, body_parts
from mura.data.sources.mura import PROBLEMS
from mura.files import absolute, printable

# Every kind of finding, in the order in which they are reported.
KINDS = {
    **PROBLEMS,
    "link-outside-root": "symbolic links that lead out of the data folder",
    "appledouble-row": "rows that list AppleDouble files (._*)",
    "label-against-folder": "studies whose label and folder name disagree",
    "study-under-both-labels": "study numbers with a positive and a negative folder",
    "unlabelled-study": "studies with images and no label",
    "study-without-images": "labelled studies with no image listed",
    "image-number-gap": "studies whose images are not numbered 1, 2, 3, ...",
    "patient-across-splits": "patients in more than one split",
    "missing-file": "listed files that are not there",
    "unlisted-file": "files that no list names",
    "appledouble-file": "AppleDouble files (._*) that macOS left; delete them",
    "empty-folder": "folders with nothing in them",
    "unreadable-file": "files that cannot be read",
    "empty-file": "files of 0 bytes",
    "not-an-image": "files that hold no image, or one of an unsupported kind",
    "oversized-image": "images too large to be radiographs (decompression bombs)",
    "truncated-image": "images that are cut off",
    "damaged-image": "images that cannot be decoded",
    "wrong-format": "images in another format than their name says",
    "unusual-mode": "images neither 8-bit gray nor RGB",
    "white-is-zero": "images whose lowest value is white; they are read inverted",
    "coloured-image": "RGB images that are not gray",
    "unusual-size": "images of an unusual size",
    "turned-by-metadata": "images that EXIF metadata turns or mirrors",
    "several-frames": "files with more than one image",
    "blank-image": "images of one gray level",
    "narrow-gray-range": "images of nearly one gray: a few pixels take the rest of the range",
    "clipped-image": "images that are plain white or black in most places",
    "byte-identical": "copies of a file within a split",
    "byte-identical-across-splits": "copies of a file in several splits",
    "byte-identical-with-different-labels": "copies of a file labelled normal and abnormal",
    "pixel-identical": "files with the same picture within a split",
    "pixel-identical-across-splits": "files with the same picture in several splits",
    "pixel-identical-with-different-labels": "the same picture labelled normal and abnormal",
    "left-out": "images that a training leaves out",
    "count-against-published": "counts other than the published ones",
}
_EXAMPLES = 3


@dataclass(frozen=True)
class Report:
    """``findings`` (columns kind, a key of ``KINDS``, path, detail), and what the folder holds."""

    root: Path
    findings: pd.DataFrame
    counts: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return self.findings.empty

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {
            "root": str(self.root),
            "ok": self.ok,
            "kinds": self.findings["kind"].value_counts(sort=False).to_dict(),
            "counts": self.counts,
            "findings": self.findings.to_dict("records"),
        }

    def __str__(self) -> str:
        counts, whats = self.counts, ("images", "studies", "patients")
        lines = [
            f"{split}: " + ", ".join(f"{counts[what][split]:,} {what}" for what in whats)
            for split in SPLITS
        ]
        modes = ", ".join(f"{count:,} {mode}" for mode, count in counts["modes"].items())
        sides = " to ".join(map(str, counts["longer_side"]))
        decoded = f"{modes}; longer sides {sides} pixels" if modes else "none decoded"
        lines.append(f"read: {counts['read']:,} files ({decoded})")
        for kind, group in self.findings.groupby("kind", sort=False):
            lines += ["", f"{kind}: {len(group):,} ({KINDS[kind]})"]
            shown = len(group) if kind == "left-out" else _EXAMPLES
            for row in group[:shown].itertuples():  # a stranger chose the names
                lines.append(f"  {printable(f'{row.path}: {row.detail}')}")
            if len(group) > shown:
                lines.append(f"  and {len(group) - shown:,} more (--json lists all)")
        kinds = self.findings["kind"].nunique()
        total = f"{len(self.findings):,} findings of {kinds} kinds" if kinds else "no findings"
        return "\n".join([*lines, "", f"{printable(str(self.root))}: {total}"])


def audit(root: str | Path, progress: bool = True) -> Report:
    """Check a data set of any source (``data.sources``); every file is read once.

    Raises:
        FileNotFoundError: The data folder or one of its tables is missing.
        ManifestError: The folder was renamed (its lists name another one), or a table is damaged.
    """
    root = absolute(root)
    source = sources.source(root)
    images, issues = source.check(root)
    paths = images["path"]
    files = source.image_files(root, paths)
    looking = joblib.Parallel(-1, prefer="threads", return_as="generator_unordered")(
        joblib.delayed(check_image)(file, path) for file, path in zip(files, paths, strict=True)
    )
    bar = tqdm(looking, "auditing", len(files), unit="image", disable=not progress)
    facts = sorted(bar, key=lambda one: one.path)
    found = (issue for one in facts for issue in one.issues)
    # others have no usual size
    issues += [one for one in found if source is sources.mura or one.kind != "unusual-size"]
    issues += find_copies(facts, images)
    counts = _count(images, facts)
    issues += source.against_published(counts)
    issues.sort(key=lambda issue: (list(KINDS).index(issue.kind), issue.path))
    return Report(root, pd.DataFrame(issues, columns=Issue._fields, dtype="str"), counts)


def _count(images: pd.DataFrame, facts: list[ImageFacts]) -> dict[str, Any]:
    """Return JSON-ready counts; cells are [normal, abnormal]."""
    studies = images.drop_duplicates("study")
    sides = [one.longer_side for one in facts if one.mode]

    def totals(table: pd.DataFrame) -> dict[str, int]:
        return {split: int((table["split"] == split).sum()) for split in SPLITS}

    parts = body_parts(images)

    def cells(table: pd.DataFrame) -> dict[str, dict[str, list[int]]]:
        found = Counter(zip(table["split"], table["body_part"], table["label"], strict=True))
        return {
            split: {part: [found[split, part, label] for label in (0, 1)] for part in parts}
            for split in SPLITS
        }

    return {
        "images": totals(images),
        "studies": totals(studies),
        "patients": totals(images.drop_duplicates(["split", "patient"])),
        "images_by_label": cells(images),
        "studies_by_label": cells(studies),
        "read": len(facts),
        "modes": dict(Counter(one.mode for one in facts if one.mode).most_common()),
        "longer_side": [min(sides), max(sides)] if sides else [],
    }
