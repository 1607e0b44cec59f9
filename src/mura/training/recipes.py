"""Training recipes: every setting of a training as a plain value with its source."""

import dataclasses
import typing
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mura.data import data_name, data_root, is_synthetic
from mura.files import InputError
from mura.models import ARCHITECTURES


class RecipeError(InputError):
    """A recipe has an unknown setting or an impossible value."""


def _from(default: float | None, low: float, high: float) -> Any:
    """Return a field whose value lies from ``low`` to ``high``, or is None where that is usual."""
    return field(default=default, metadata={"low": low, "high": high})


def _one_of(*choices: str | None) -> Any:
    """Return a field with one of a few values, the first by default."""
    return field(default=choices[0], metadata={"choices": choices})


@dataclass(frozen=True)
class Recipe:
    """All that decides a training, apart from the data.

    Two trainings with equal recipes on the same data and machine give the same history; on a GPU
    up to rounding, with the same order of images and the same seeds.
    """

    architecture: str = "cnn"
    profile: str = "quick"  # the named recipe this one started from
    image_size: int = _from(96, 32, 1024)  # pixels; images are padded to a square of this side
    body_parts: tuple[str, ...] = ()  # (): all that the data have; one alone trains a specialist
    head: str = _one_of("binary", "joint")  # one sigmoid, or a softmax over body part x finding
    # "imagenet", a file, a folder of weight files, a run; None or "none": random
    weights: str | None = None
    strict_weights: bool = False  # True: stop when the weights cannot be had

    train_fraction: float = _from(1.0, 1e-6, 1.0)  # share of the fit patients that is trained on
    tune_fraction: float = _from(0.1, 0.01, 0.5)  # share of train's patients held out for choices
    split_seed: int = _from(0, 0, 2**31 - 1)  # the same for all runs, so that they compare
    folds: int = _from(1, 1, 100)  # more: patients are dealt, and ``fold`` is held out as valid
    fold: int = _from(0, 0, 99)
    seed: int = _from(0, 0, 2**31 - 1)  # initial weights, order, augmentation, dropout

    batch_size: int = _from(32, 1, 4096)
    epochs: int = _from(12, 1, 10_000)  # of fine-tuning, or of the training from random weights
    head_epochs: int = _from(0, 0, 10_000)  # before that, with a pretrained backbone frozen
    head_learning_rate: float = _from(1e-3, 1e-12, 100.0)
    # moments 0.9 and 0.999 (MURA paper, section 3.2); "adamw": with decoupled weight decay
    optimizer: str = _one_of("adam", "adamw")
    learning_rate: float = _from(1e-3, 1e-12, 100.0)
    # where the network starts from random weights; None: the same
    random_learning_rate: float | None = _from(None, 1e-12, 100.0)
    weight_decay: float = _from(0.0, 0.0, 1.0)  # AdamW only
    decay_all: bool = True  # False: normalisation and biases keep their size
    schedule: str = _one_of("plateau", "cosine", "constant")
    plateau_window: int = _from(3, 1, 10_000)  # epochs that a tune loss is averaged over
    plateau_gain: float = _from(0.001, 0.0, 1.0)  # least share by which the average has to fall
    plateau_patience: int = _from(3, 1, 10_000)  # epochs without a gain before the rate is cut
    plateau_factor: float = _from(0.1, 1e-6, 1.0)  # (MURA paper, section 3.2: a factor of 10)
    plateau_floor: float = _from(0.001, 0.0, 1.0)  # share of the rate that no cut goes below
    warmup_fraction: float = _from(0.0, 0.0, 1.0)  # share of the cosine's steps that it rises for
    early_stopping: int = _from(0, 0, 10_000)  # epochs without a gain before the end; 0: never
    # the epoch whose weights a run keeps: that of the lowest tune loss, or the last, which a cosine
    # has brought to rest
    keep: str = _one_of("best", "last")
    dropout: float = _from(0.2, 0.0, 0.9)
    label_smoothing: float = _from(0.0, 0.0, 0.5)
    average_momentum: float | None = _from(None, 0.001, 0.99999)  # moving average of the weights
    weighted_loss: bool = True  # per body part, as the paper does (section 3.2)

    flip: bool = True  # lateral inversion (MURA paper, section 3.2)
    rotation: float = _from(30.0, 0.0, 180.0)  # degrees to either side (MURA paper, section 3.2)
    shift: float = _from(0.05, 0.0, 0.5)  # share of the image's side
    zoom: float = _from(0.1, 0.0, 0.5)
    contrast: float = _from(0.2, 0.0, 1.0)
    brightness: float = _from(0.0, 0.0, 1.0)  # share of the gray range
    gamma: float = _from(0.0, 0.0, 2.0)  # natural logarithm of the exponent

    precision: str | None = _one_of(None, "float32", "mixed_bfloat16")  # None: suits the device
    jit_compile: bool | None = None  # XLA; None: what suits the device
    fused: bool | None = None  # TensorFlow's fused kernels; None: what suits the device

    def __post_init__(self) -> None:
        """Refuse settings that could only fail later."""
        if self.weights == "none":
            object.__setattr__(self, "weights", None)
        if isinstance(self.body_parts, str):
            object.__setattr__(self, "body_parts", (self.body_parts,))
        elif isinstance(self.body_parts, list):
            object.__setattr__(self, "body_parts", tuple(self.body_parts))
        for setting in dataclasses.fields(self):
            value, allowed = getattr(self, setting.name), setting.metadata
            if not _is_of(value, setting.type):
                raise RecipeError(f"{setting.name} {value!r}: expected {_described(setting.type)}.")
            if "choices" in allowed and value not in allowed["choices"]:
                choices = ", ".join(map(str, allowed["choices"]))
                raise RecipeError(f"{setting.name} {value!r}: choose one of {choices}.")
            optional = value is None and setting.default is None
            if "low" in allowed and not optional and not allowed["low"] <= value <= allowed["high"]:
                low, high = allowed["low"], allowed["high"]
                raise RecipeError(f"{setting.name} {value}: must be between {low} and {high}.")

        if self.fold >= self.folds:
            raise RecipeError(f"fold {self.fold}: there are {self.folds}, counted from 0.")

    @property
    def run_name(self) -> str:
        """A run's usual name; minutes of *quick* never take the place of days of *paper*."""
        fold = f"-fold{self.fold}of{self.folds}" if self.folds > 1 else ""
        return self.architecture + ("" if self.profile == "quick" else f"-{self.profile}") + fold

    def rate_from(self, origin: str) -> float:
        """Return the learning rate of a network whose first weights were of this origin."""
        return (origin == "random" and self.random_learning_rate) or self.learning_rate

    def replace(self, **changes: Any) -> "Recipe":
        """Return a copy with some settings changed; a ``learning_rate`` holds for every start.

        Raises:
            RecipeError: A setting has no such name, or an impossible value.
        """
        known = {setting.name for setting in dataclasses.fields(self)}
        if unknown := sorted(set(changes) - known):
            raise RecipeError(f"no such setting: {', '.join(unknown)}; there are {sorted(known)}.")
        if "learning_rate" in changes:  # whoever names a rate means it
            changes.setdefault("random_learning_rate", None)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values."""
        return dataclasses.asdict(self) | {"body_parts": list(self.body_parts)}


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a setting's value is of its type; a whole number may stand for any number."""
    if kind == tuple[str, ...]:
        return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    kinds = typing.get_args(kind) or (kind,)
    if isinstance(value, bool):  # Python's bool is an int
        return bool in kinds
    return isinstance(value, (*kinds, int) if float in kinds else kinds)


def _described(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    words |= {type(None): "none"}
    if kind == tuple[str, ...]:
        return "a list of texts"
    return " or ".join(words[each] for each in typing.get_args(kind) or (kind,))


# fmt: off
_QUICK = Recipe(
    profile="quick", image_size=96, batch_size=16, epochs=12, optimizer="adamw",
    learning_rate=1e-3, weight_decay=0.01, schedule="cosine", warmup_fraction=0.05,
    rotation=10.0, shift=0.03, zoom=0.05, contrast=0.1,
)
_QUICK_LARGE = _QUICK.replace(
    batch_size=32, weights="imagenet", head_epochs=1,
    learning_rate=5e-4, random_learning_rate=1e-3,
)
_PAPER = Recipe(
    architecture="densenet169", profile="paper", image_size=320, batch_size=8,
    weights="imagenet", strict_weights=True, head_epochs=1, epochs=30,
    learning_rate=1e-4, schedule="plateau", early_stopping=10,
    dropout=0.0, shift=0.0, zoom=0.0, contrast=0.0,
)
_STANDARD = Recipe(
    profile="standard", image_size=192, batch_size=16,
    weights="imagenet", strict_weights=True, head_epochs=1, epochs=10,
    optimizer="adamw", learning_rate=2e-4, random_learning_rate=1e-3, weight_decay=0.05,
    schedule="cosine", warmup_fraction=0.05, label_smoothing=0.05, rotation=10.0,
)
_STANDARD_OWN = _STANDARD.replace(
    image_size=160, batch_size=32, epochs=40, weights=None, strict_weights=False, head_epochs=0,
    keep="last",
)
# fmt: on
# no batch normalisation: from photographs 5e-5 ended at chance (docs/recipes.md)
_VGG_RATES = {"learning_rate": 1e-5, "random_learning_rate": 1e-4}
# nothing of a network of one's own is pretrained
_FROM_SCRATCH = {"weights": None, "strict_weights": False, "head_epochs": 0}


def quick(architecture: str) -> Recipe:
    """Minutes on a laptop, for the phantom: small images, few epochs, mild augmentation.

    ``mura train cnn`` takes 2 minutes on two EPYC cores and reaches an AUROC of 0.917 [0.869,
    0.956]; ``mura train vgg16 --weights FILE`` takes 12 and reaches 0.841 [0.780, 0.895] from
    photographs (docs/recipes.md). Chosen by trying on the phantom, its validation patients
    included. Too few epochs to wait for plateaus, so a cosine brings the rate down by the last one.
    """
    if _is_own(architecture):
        return _QUICK
    if _is_vgg(architecture):
        still = {"flip": False, "rotation": 0.0, "shift": 0.0, "zoom": 0.0, "contrast": 0.0}
        changes = {"batch_size": 16, "epochs": 6, "head_epochs": 0, "dropout": 0.0, "keep": "last"}
        return _QUICK_LARGE.replace(**_VGG_RATES, **changes, **still)
    # Inception-v3's first convolutions have no padding: 96 px would leave maps of one place
    larger = {"image_size": 128, "epochs": 6}
    return _QUICK_LARGE.replace(**larger) if architecture == "inception_v3" else _QUICK_LARGE


def standard(architecture: str) -> Recipe:
    """Radiographs: chosen on tune patients of FracAtlas (docs/recipes.md, benchmarks/ablation.py).

    ``mura train cnn --root data/FracAtlas`` takes 5 minutes on two EPYC cores with two thirds of
    FracAtlas and reaches an AUROC of 0.83; Inception-v3 from photographs takes 8 and reaches 0.82
    (README.md has the intervals, and results out of fold). On MURA, on a GPU: not measured.

    AdamW (arXiv 1711.05101), a cosine schedule with warm-up (arXiv 1608.03983) and label smoothing
    (arXiv 1512.00567, section 7). The custom CNN keeps its last epoch, at which the cosine has
    brought the weights to rest; pretrained networks, which overfit, that of the lowest tune loss.
    """
    chosen = _STANDARD_OWN if _is_own(architecture) else _STANDARD
    return chosen.replace(**_VGG_RATES) if _is_vgg(architecture) else chosen


def paper(architecture: str) -> Recipe:
    """MURA as its paper trains it (Rajpurkar et al. 2017, arXiv 1712.06957, section 3.2).

    ``mura train densenet169 --profile paper --root data/MURA-v1.1``; its cost on a GPU is not
    measured. The paper reports a kappa of 0.705 for five such networks together.

    But for the plateau rule: on a small tune part, a cut after each epoch without a gain would end
    a training by noise. A custom network starts from random weights, so it takes AdamW, a rate of
    1e-3 and dropout.
    """
    if _is_own(architecture):
        changes = {"optimizer": "adamw", "weight_decay": 0.01, "dropout": 0.2}
        return _PAPER.replace(**_FROM_SCRATCH, random_learning_rate=1e-3, **changes)
    return _PAPER


PROFILES = {"quick": quick, "standard": standard, "paper": paper}
_FORMER = {"full": "paper", "modern": "standard"}


def usual_profile(root: str | Path | None = None) -> str:
    """Return ``"quick"`` for a phantom, drawn or not, and ``"standard"`` for all other data.

    ``root`` is as in ``data.data_root``.
    """
    root = data_root(root)
    return "quick" if not root.exists() or is_synthetic(data_name(root)) else "standard"


def recipe(architecture: str, profile: str = "quick", **changes: Any) -> Recipe:
    """Return the named recipe for an architecture.

    Args:
        architecture: A name of ``models.ARCHITECTURES``.
        profile: A name of ``PROFILES``, whose functions say what each is for.
        changes: Settings to change; None leaves the profile's own, ``weights="none"`` starts
            from random weights.

    Raises:
        RecipeError: The profile or a setting is unknown.
    """
    if profile in _FORMER:
        text = f"the profile {profile} is now called {_FORMER[profile]}"
        warnings.warn(f"{text}; the old name works for one release.", stacklevel=2)
        profile = _FORMER[profile]
    changes = {name: value for name, value in changes.items() if value is not None}
    if profile not in PROFILES:
        raise RecipeError(f"profile {profile!r}: choose {', '.join(PROFILES)}.")
    chosen = PROFILES[profile](architecture)
    from_a_run = _is_own(architecture) and changes.get("weights", "none") != "none"
    if from_a_run and profile != "quick":
        changes = {"strict_weights": True, "head_epochs": 1} | changes
    return chosen.replace(architecture=architecture, profile=profile, **changes)


def _is_own(architecture: str) -> bool:
    """Whether a network's builder is a function of ours or the user's, not Keras's."""
    entry = ARCHITECTURES.get(architecture)
    return entry is not None and callable(entry.builder)


def _is_vgg(architecture: str) -> bool:
    """Whether a network has no batch normalisation, which would keep its scale at any rate."""
    return architecture.startswith("vgg")
