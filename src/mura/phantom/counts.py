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
PUBLIC = "MURA's public data"
TEST_SETS = {
    HIDDEN: "207 studies, labels by the majority of three other radiologists",
    VALID: "1,199 studies, labels from clinical reading",
    PUBLIC: "which of its studies or images was not verified",
}

# Rajpurkar et al. 2018, "MURA: Large Dataset for Abnormality Detection in Musculoskeletal
# Radiographs", arXiv 1712.06957, table 2 and section 4.
_PAPER = "Rajpurkar et al. 2018, arXiv 1712.06957"
PAPER_OPERATING_POINT = (0.815, 0.887)  # sensitivity, specificity of the ensemble at 0.5
PAPER_RADIOLOGISTS = (0.731, 0.778)  # lowest and highest kappa of the three, table 2
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
    # Its abstract's precision 0.93 and recall 0.81 do not go with this accuracy and kappa at the
    # validation studies' share of abnormal ones (0.449), only at one between 0.49 and 0.55.
    PublishedResult(
        "three-network ensemble (He et al.)", PUBLIC, {"all": 0.74}, _HE, auroc=0.93, accuracy=0.87
    ),
)


# Counts of MURA v1.1 as (normal, abnormal), from its CSV files; the paper's table 1 counts the
# studies of v1.0 a little differently.
_BODY_PARTS = tuple(f"XR_{part}" for part in _PARTS)


def _cells(*pairs: tuple[int, int]) -> dict[str, tuple[int, int]]:
    return dict(zip(_BODY_PARTS, pairs, strict=True))


IMAGE_COUNTS = {
    "train": _cells(
        (2925, 2006),
        (3138, 1968),
        (1164, 661),
        (4059, 1484),
        (673, 599),
        (4211, 4168),
        (5765, 3987),
    ),
    "valid": _cells(
        (235, 230), (214, 247), (150, 151), (271, 189), (148, 140), (285, 278), (364, 295)
    ),
}
STUDY_COUNTS = {
    "train": _cells(
        (1094, 660), (1280, 655), (590, 287), (1497, 521), (321, 271), (1364, 1457), (2134, 1326)
    ),
    "valid": _cells((92, 66), (92, 83), (69, 64), (101, 66), (68, 67), (99, 95), (140, 97)),
}
PATIENT_COUNTS = {"train": 11_184, "valid": 783}
# Patients with studies of more than one body part, and with normal and abnormal studies.
PATIENTS_WITH_SEVERAL_PARTS = {"train": 1467, "valid": 248}
PATIENTS_WITH_BOTH_LABELS = {"train": 888, "valid": 167}
# Number of views in a study -> number of studies.
VIEWS_PER_STUDY = {
    "train": {1: 1131, 2: 3733, 3: 6466, 4: 1887, 5: 197, 6: 27, 7: 13, 8: 2, 11: 1},
    "valid": {1: 101, 2: 412, 3: 517, 4: 135, 5: 30, 6: 1, 7: 1, 8: 1, 10: 1},
}
