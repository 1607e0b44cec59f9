"""How often a bundled or exported model says that it does not know an image.

python benchmarks/novelty.py MODEL.tflite DATA [DATA ...]        half a minute

First 30 images that are no radiographs: photographs and drawings that ship inside installed
packages (Gradio's among them: `make app`), rendered pages, and noise of several grains. Then the
validation images of each data folder.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mura import data
from mura.export import ExportedModel
from mura.predict import look

SHIPPED = [
    *("sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"),
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
    "matplotlib/mpl-data/sample_data/Minduka_Present_Blue_Pack.png",
    "matplotlib/mpl-data/sample_data/logo2.png",
    *("gradio/media_assets/images/cheetah.jpg", "gradio/media_assets/images/cheetah1.jpg"),
    *("gradio/media_assets/images/groot.jpeg", "gradio/media_assets/images/hf-logo_transpng.png"),
    *("gradio/media_assets/images/lion.jpg", "gradio/media_assets/images/tower.jpg"),
    "gradio/test_data/cheetah2.jpg",
]
TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").split()


def others(folder: Path) -> Iterator[Path]:
    """Yield the 30 images; drawn ones are written into the folder."""
    for name in SHIPPED:
        package, _, file = name.partition("/")
        yield Path(importlib.util.find_spec(package).origin).parent / file
    random = np.random.default_rng(0)
    for number in range(12):
        paper, ink = (255, 0) if number % 3 else (0, 255)
        page = Image.new("L", (600, 800), paper)
        size = 12 + 3 * number
        font, draw = ImageFont.load_default(size), ImageDraw.Draw(page)
        for line in range(20, 780, round(1.4 * size)):
            draw.text((20, line), " ".join(random.choice(TEXT, 30)), ink, font)
        page.save(folder / f"page{number}.png")
        yield folder / f"page{number}.png"
    for number in range(6):
        grains = random.integers(0, 256, (256 >> number, 256 >> number), dtype=np.uint8)
        Image.fromarray(grains).resize((256, 256)).save(folder / f"noise{number}.png")
        yield folder / f"noise{number}.png"


def main(file: str, roots: list[str]) -> None:
    model = ExportedModel(file)
    with tempfile.TemporaryDirectory() as folder:
        views = list(look(model, list(others(Path(folder)))))
    missed = [Path(view.path).name for view in views if view.known]
    print(f"{len(views) - len(missed)} of {len(views)} other images flagged; missed: {missed}")
    for root in roots:
        manifest = data.read(root)
        chosen = manifest[manifest["split"] == "valid"]
        known = [view.known for view in look(model, data.image_files(root, chosen["path"]))]
        known = [each for each in known if each is not None]
        print(f"{data.data_name(root)}: {1 - np.mean(known):.1%} of {len(known)} images flagged")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
