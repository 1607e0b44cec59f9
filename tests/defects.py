"""Defects of every kind, to be planted into a copy of a clean data folder."""

import numpy as np
from layout import PREFIX, encoded, noise, read_lines, study_path, write_lines
from PIL import Image
from test_images import png

from mura import data


class Planter:
    """A copy of a clean data folder into which defects are planted, each with its own images."""

    def __init__(self, root):
        self.root, self.folder = root, root.parent
        images = data.read(root)
        self.images = images["path"].tolist()
        studies = images.drop_duplicates("study")
        self.studies = list(zip(studies["path"], studies["split"], studies["label"], strict=True))
        self.used = set()

    def take(self, split=None, label=None):
        """The path of an image of a study that no other defect uses."""
        for path, its_split, its_label in self.studies:
            if path not in self.used and split in (None, its_split) and label in (None, its_label):
                self.used.add(path)
                return path
        raise AssertionError("the clean folder has too few studies")

    def rows(self, name, change):
        file = self.root / name
        write_lines(file, change(read_lines(file)))

    def replace(self, content):
        path = self.take("train")
        (self.folder / path).write_bytes(content)
        return path

    def image(self, path):
        return np.asarray(Image.open(self.folder / path).convert("L"))


def plant_rows(planter):
    def train(row):
        planter.rows("train_image_paths.csv", lambda rows: [*rows, row])
        return row

    def label(study, label=1):
        planter.rows("train_labeled_studies.csv", lambda rows: [*rows, f"{study}/,{label}"])
        return study

    def new(path, seed):
        (planter.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (planter.folder / path).write_bytes(encoded(noise(seed, 100, 90)))
        return path

    knee = f"{PREFIX}/train/XR_KNEE/patient00001/study1_positive/image1.png"
    yield "malformed-row", train(knee)
    yield "path-outside-root", train("../../etc/image1.png")
    hidden = f"{PREFIX}/train/XR_HAND/patient00001/study1_negative/._image1.png"
    yield "appledouble-row", train(hidden)
    stray = planter.take("valid")
    planter.rows("valid_image_paths.csv", lambda rows: [row for row in rows if row != stray])
    yield "wrong-split", train(stray)
    yield "duplicate-row", train(planter.take("train"))
    yield "invalid-label", label(study_path("train", "XR_HAND", 90_000, 1, 1), 2)
    yield "study-without-images", label(study_path("train", "XR_HAND", 90_001, 1, 1))
    yield "conflicting-labels", label(planter.take("train", label=0).rpartition("/")[0])
    for kind in ("label-against-folder", "unlabelled-study"):
        study = planter.take("train", label=1).rpartition("/")[0]
        planter.rows(
            "train_labeled_studies.csv",
            lambda rows, study=study: [row for row in rows if not row.startswith(f"{study}/")],
        )
        yield kind, label(study, 0) if kind == "label-against-folder" else study
    study = planter.take("train", label=0).rpartition("/")[0]
    train(new(study.replace("_negative", "_positive") + "/image1.png", 1000))
    label(study.replace("_negative", "_positive"))
    yield "study-under-both-labels", study.removesuffix("_negative")
    study = planter.take("train").rpartition("/")[0]
    train(new(f"{study}/image99.png", 1001))
    yield "image-number-gap", study
    patient = planter.take("train").split("/")[3]
    crossing = f"{PREFIX}/valid/XR_HAND/{patient}/study7_negative"
    new(f"{crossing}/image1.png", 1002)
    planter.rows("valid_image_paths.csv", lambda rows: [*rows, f"{crossing}/image1.png"])
    planter.rows("valid_labeled_studies.csv", lambda rows: [*rows, f"{crossing}/,0"])
    yield "patient-across-splits", patient


def plant_files(planter):
    path = planter.take()
    (planter.folder / path).unlink()
    yield "missing-file", path
    path = planter.take()
    (planter.folder / "outside.png").write_bytes(encoded(noise(1003, 100, 90)))
    (planter.folder / path).unlink()
    (planter.folder / path).symlink_to(planter.folder / "outside.png")
    yield "link-outside-root", path
    path = planter.take().replace("image1.png", "image50.png")
    (planter.folder / path).write_bytes(encoded(noise(1004, 100, 90)))
    yield "unlisted-file", path
    path = planter.take().replace("image1.png", "._image1.png")
    (planter.folder / path).write_bytes(b"\0\5\x16\7 Mac OS X")
    yield "appledouble-file", path
    (planter.root / "train" / "XR_HAND" / "patient99999").mkdir(parents=True)
    yield "empty-folder", f"{PREFIX}/train/XR_HAND/patient99999"
    path = planter.take()
    (planter.folder / path).unlink()
    (planter.folder / path).mkdir()
    (planter.folder / path / "image").write_bytes(b"")
    yield "unreadable-file", path


def plant_images(planter):
    whole = encoded(noise(2000, 100, 90))
    yield "empty-file", planter.replace(b"")
    yield "not-an-image", planter.replace(b"a text that was renamed to .png\n" * 10)
    yield "oversized-image", planter.replace(png(60_000, 60_000))
    yield "truncated-image", planter.replace(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    yield "damaged-image", planter.replace(bytes(damaged))
    yield "wrong-format", planter.replace(encoded(noise(2001, 100, 90), "JPEG"))
    deep = noise(2002, 100, 90).astype(np.uint16) * 250
    yield "unusual-mode", planter.replace(encoded(deep))
    yield "coloured-image", planter.replace(encoded(np.dstack([noise(n) for n in (1, 2, 3)])))
    yield "unusual-size", planter.replace(encoded(noise(2003, 600, 90)))
    exif = Image.Exif()
    exif[0x0112] = 3
    yield "turned-by-metadata", planter.replace(encoded(noise(2004, 100, 90), exif=exif))
    frames = [Image.fromarray(noise(seed, 100, 90)) for seed in (2005, 2006)]
    several = encoded(frames[0], save_all=True, append_images=frames[1:])
    yield "several-frames", planter.replace(several)
    yield "blank-image", planter.replace(encoded(np.full((100, 90), 7, np.uint8)))
    yield "narrow-gray-range", planter.replace(encoded(noise(2007, 100, 90) // 16))


def plant_copies(planter):
    for kind, again in (("byte-identical", False), ("pixel-identical", True)):
        for end, one, other in (
            ("", ("train", 1), ("train", 1)),
            ("-with-different-labels", ("train", 0), ("train", 1)),
            ("-across-splits", ("train", 0), ("valid", 0)),
        ):
            source, target = planter.take(*one), planter.take(*other)
            content = (planter.folder / source).read_bytes()
            if again:
                content = encoded(planter.image(source), compress_level=0)
            (planter.folder / target).write_bytes(content)
            yield kind + end, min(source, target)


PLANTS = (plant_rows, plant_files, plant_images, plant_copies)
