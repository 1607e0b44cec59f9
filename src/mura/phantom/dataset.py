"""Write a phantom to disk: MURA-v1.1's folders and CSV files, and a truth table beside them."""

from __future__ import annotations

import glob
import shutil
import tempfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from mura.files import InputError, read_json, write_json
from mura.phantom.findings import FINDINGS, HIDDEN_VIEWS, VARIANTS
from mura.phantom.plan import StudyPlan, plan_studies
from mura.phantom.rendering import render

# 169 validation studies: enough for a useful confidence interval, drawn in a minute or two.
DEFAULT_SCALE = 0.14
# Part of what makes two phantoms the same: raise it when drawing changes a byte.
VERSION = 5
NAME = "MURA-v1.1"
RGB_ENCODED = 0.04  # share of images that are gray in three channels, as some of MURA's
_PROJECTIONS = ("frontal", "lateral", "oblique")
_TRUTH = ("path", "finding", "variant", "visible", "x0", "y0", "x1", "y1", "inverted", "projection")


class PhantomError(InputError):
    """A phantom cannot be drawn there."""


def generate(
    root: str | Path,
    scale: float = DEFAULT_SCALE,
    seed: int = 0,
    jobs: int | None = None,
    progress: bool = True,
) -> Path:
    """Draw a phantom, unless the same one is there already; return ``root/MURA-v1.1``.

    Args:
        root: The folder to write, e.g. ``data/phantom``: ``root/MURA-v1.1/`` is the data set,
            ``root/truth.csv`` has each image's finding and its box in pixels.
        scale: Share of MURA's studies; 1 gives the published counts exactly.
        seed: The same seed and scale give the same bytes for any number of processes.
        jobs: Processes; one per available core when None.
        progress: Whether to show a progress bar.

    Raises:
        PhantomError: The scale, seed or jobs are impossible, or the folder holds something else.
    """
    if not 0 < scale <= 1:
        raise PhantomError(f"scale {scale}: must be above 0 and at most 1, all of MURA's studies.")
    if seed < 0 or (jobs is not None and jobs < 1):
        raise PhantomError(f"seed {seed}, jobs {jobs}: expected at least 0, and at least 1.")
    named, root = Path(root), Path(root).resolve()  # a linked folder is drawn where it is
    facts = {"scale": float(scale), "seed": int(seed), "version": VERSION}
    if not _stands(root, facts):
        _draw(root, facts, jobs, progress)
    return named / NAME


def is_current(root: str | Path) -> bool:
    """Whether this version drew the phantom, at any scale and seed."""
    facts = _facts(Path(root))
    return isinstance(facts, dict) and facts.get("version") == VERSION


def _facts(root: Path) -> Any:
    return read_json(root / "phantom.json") if (root / "phantom.json").is_file() else None


def _stands(root: Path, facts: dict[str, Any]) -> bool:
    """Whether the phantom of these facts is there; raise if something else is."""
    if not root.exists() or not any(root.iterdir()):
        return False
    found = _facts(root)
    if found == facts and (root / NAME).is_dir():
        return True
    was = f"the phantom {found}" if found else "no phantom of this project"
    todo = f"delete the folder to draw {facts}, or choose another --out"
    raise PhantomError(f"{root}: holds {was}, or only a part of it; {todo}.")


def _draw(root: Path, facts: dict[str, Any], jobs: int | None, progress: bool) -> None:
    """Draw beside the root and rename, so that a phantom is whole or not there."""
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}.drawing-"))
    try:
        _write(temporary, facts["scale"], facts["seed"], jobs, progress)
        write_json(temporary / "phantom.json", facts)
        temporary.chmod(0o755)  # mkdtemp makes it private
        if root.exists():
            root.rmdir()
        temporary.rename(root)
    except OSError:
        if not _stands(root, facts):  # else another process has drawn it meanwhile
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for left in root.parent.glob(f".{glob.escape(root.name)}.drawing-*"):  # by killed processes
        shutil.rmtree(left, ignore_errors=True)


def _write(folder: Path, scale: float, seed: int, jobs: int | None, progress: bool) -> None:
    studies, data = plan_studies(scale, seed), folder / NAME
    data.mkdir()
    # starting processes for a few studies would take longer than drawing them
    parallel = joblib.Parallel(1 if len(studies) < 20 else jobs or -1, return_as="generator")
    studies_to_draw = (joblib.delayed(draw_study)(data, *each, seed) for each in enumerate(studies))
    images, rows = sum(study.views for study in studies), []
    with tqdm(total=images, desc="drawing the phantom", unit="image", disable=not progress) as bar:
        for drawn in parallel(studies_to_draw):
            rows += drawn
            bar.update(len(drawn))
    truth = pd.DataFrame(rows, columns=_TRUTH)
    truth.to_csv(folder / "truth.csv", index=False, lineterminator="\n")
    _write_lists(data, studies)


def draw_study(data: Path, index: int, study: StudyPlan, seed: int) -> list[tuple]:
    """Draw one study's views into its folder; return their rows of the truth table."""
    folder = data / study.folder
    folder.mkdir(parents=True)
    random = np.random.default_rng([seed, index])
    finding = str(random.choice(list(FINDINGS), p=list(FINDINGS.values())))
    finding = finding if study.label else "none"
    variant = str(random.choice(list(VARIANTS), p=list(VARIANTS.values())))
    shown = random.uniform(size=study.views) >= HIDDEN_VIEWS
    if not shown.any():
        shown[0] = True  # an abnormal study shows its finding somewhere
    rows = []
    for view in range(study.views):
        projection = _PROJECTIONS[view % 3] if study.views > 1 else "frontal"
        shows = finding if shown[view] else "none"
        seeds = (seed, index, 1), (seed, index, 2, view)  # of the study and of the view
        picture = render(study.body_part, projection, shows, variant, *seeds)
        image = Image.fromarray(picture.image)
        image = image.convert("RGB") if random.uniform() < RGB_ENCODED else image
        path = f"{study.folder}/image{view + 1}.png"
        # level 1: half the time of the default for noise that hardly compresses anyway
        image.save(data / path, compress_level=1)
        box = picture.box or ("", "", "", "")
        seen = (finding, variant, int(picture.box is not None), *box, int(picture.inverted))
        rows.append((f"{NAME}/{path}", *seen, projection))
    return rows


def _write_lists(data: Path, studies: list[StudyPlan]) -> None:
    """Write the four CSV files as MURA has them: no header, LF, paths from the folder's name."""
    for split in ("train", "valid"):
        images, labels = [], []
        for study in (study for study in studies if study.split == split):
            folder = f"{NAME}/{study.folder}"
            images += [f"{folder}/image{view + 1}.png\n" for view in range(study.views)]
            labels.append(f"{folder}/,{study.label}\n")
        for name, lines in (("image_paths", images), ("labeled_studies", labels)):
            (data / f"{split}_{name}.csv").write_bytes("".join(lines).encode())
