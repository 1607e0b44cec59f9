"""What others published about MURA: tables of facts, each with its source beside it."""

from typing import NamedTuple


class PublishedResult(NamedTuple):
    """One published row: Cohen's kappa of studies, by body part and under ``"all"``.

    ``test_set`` is one of ``TEST_SETS``; rows of different test sets do not rank each other.
    """

    name: str
    test_set: str
    kappa: dict[str, float]
    source: str
    auroc: float | None = None
    accuracy: float | None = None


HIDDEN = "hidden test set"
VALID = "official validation set"
TEST_SETS = {
    HIDDEN: "207 studies, labels by the majority of three radiologists",
    VALID: "1,199 studies, labels from clinical reading",
}

# Rajpurkar et al. 2018, "MURA: Large Dataset for Abnormality Detection in Musculoskeletal
# Radiographs", arXiv 1712.06957, table 2 and section 4.
_PAPER = "Rajpurkar et al. 2018, arXiv 1712.06957"
PAPER_OPERATING_POINT = (0.815, 0.887)  # sensitivity, specificity of the ensemble at 0.5
# stanfordmlgroup.github.io/competitions/mura: closed; overall kappa only.
_LEADERBOARD = "MURA competition's leaderboard (closed)"
_ILIAS_ANT = "github.com/ilias-ant/x-ray-abnormality-detection"
_HE = "He et al. 2021, Scientific Reports, s41598-021-88578-w"

# In the order of the paper's table; "all" last.
_PARTS = ("ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST")


def _by_part(*values: float) -> dict[str, float]:
    return dict(zip((*(f"XR_{part}" for part in _PARTS), "all"), values, strict=True))


RESULTS = (
    PublishedResult(
        "radiologist 1",
        HIDDEN,
        _by_part(0.850, 0.304, 0.796, 0.661, 0.867, 0.864, 0.791, 0.731),
        _PAPER,
    ),
    PublishedResult(
        "radiologist 2",
        HIDDEN,
        _by_part(0.710, 0.403, 0.802, 0.927, 0.733, 0.791, 0.931, 0.763),
        _PAPER,
    ),
    PublishedResult(
        "radiologist 3",
        HIDDEN,
        _by_part(0.719, 0.410, 0.798, 0.789, 0.933, 0.864, 0.931, 0.778),
        _PAPER,
    ),
    PublishedResult(
        "DenseNet169 ensemble (paper)",
        HIDDEN,
        _by_part(0.710, 0.389, 0.737, 0.851, 0.600, 0.729, 0.931, 0.705),
        _PAPER,
        auroc=0.929,
    ),
    PublishedResult("leaderboard, best ensemble", HIDDEN, {"all": 0.843}, _LEADERBOARD),
    PublishedResult("leaderboard, best single model", HIDDEN, {"all": 0.775}, _LEADERBOARD),
    PublishedResult(
        "CNN from scratch (ilias-ant)",
        VALID,
        _by_part(0.50, 0.37, 0.44, 0.18, 0.44, 0.17, 0.51, 0.386),
        _ILIAS_ANT,
    ),
    PublishedResult(
        "VGG19 (ilias-ant)",
        VALID,
        _by_part(0.67, 0.56, 0.62, 0.42, 0.70, 0.51, 0.67, 0.598),
        _ILIAS_ANT,
    ),
    PublishedResult(
        "ResNet50 (ilias-ant)",
        VALID,
        _by_part(0.63, 0.60, 0.66, 0.47, 0.75, 0.47, 0.72, 0.618),
        _ILIAS_ANT,
    ),
    PublishedResult(
        "DenseNet169 (ilias-ant)",
        VALID,
        _by_part(0.72, 0.59, 0.65, 0.43, 0.72, 0.54, 0.71, 0.629),
        _ILIAS_ANT,
    ),
    PublishedResult(
        "DenseNet201 (ilias-ant)",
        VALID,
        _by_part(0.73, 0.66, 0.62, 0.47, 0.73, 0.54, 0.72, 0.645),
        _ILIAS_ANT,
    ),
    PublishedResult("two-model ensemble (ilias-ant)", VALID, {"all": 0.645}, _ILIAS_ANT),
    PublishedResult(
        "three-network ensemble (He et al.)", VALID, {"all": 0.74}, _HE, auroc=0.93, accuracy=0.87
    ),
)
