"""Published results on MURA, to stand beside this project's."""

import pandas as pd

from mura.data import BODY_PARTS  # MURA's

# Rajpurkar et al. 2018, arXiv 1712.06957, section 4 and table 2.
PAPER_OPERATING_POINT = (0.815, 0.887)  # sensitivity, specificity of the ensemble at 0.5
PAPER_RADIOLOGISTS = (0.731, 0.778)  # lowest and highest kappa of the three

HIDDEN = "hidden test set"
VALID = "official validation set"
PUBLIC = "MURA's public data"
TEST_SETS = {
    HIDDEN: "207 studies, labels by the majority of three other radiologists",
    VALID: "1,199 studies, labels from clinical reading",
    PUBLIC: "which of its studies or images was not verified",
}
# Cohen's kappa per body part (in the order of ``BODY_PARTS``) and overall, or overall only.
KAPPAS: dict[str, dict[str, tuple[float, ...]]] = {
    HIDDEN: {
        # the paper, table 2
        "radiologist 1": (0.850, 0.304, 0.796, 0.661, 0.867, 0.864, 0.791, 0.731),
        "radiologist 2": (0.710, 0.403, 0.802, 0.927, 0.733, 0.791, 0.931, 0.763),
        "radiologist 3": (0.719, 0.410, 0.798, 0.789, 0.933, 0.864, 0.931, 0.778),
        "DenseNet169 ensemble (paper)": (0.710, 0.389, 0.737, 0.851, 0.600, 0.729, 0.931, 0.705),
        # the competition, now closed: stanfordmlgroup.github.io/competitions/mura
        "leaderboard, best ensemble": (0.843,),
        "leaderboard, best single model": (0.775,),
    },
    VALID: {
        # github.com/ilias-ant/x-ray-abnormality-detection
        "CNN from scratch (ilias-ant)": (0.50, 0.37, 0.44, 0.18, 0.44, 0.17, 0.51, 0.386),
        "VGG19 (ilias-ant)": (0.67, 0.56, 0.62, 0.42, 0.70, 0.51, 0.67, 0.598),
        "ResNet50 (ilias-ant)": (0.63, 0.60, 0.66, 0.47, 0.75, 0.47, 0.72, 0.618),
        "DenseNet169 (ilias-ant)": (0.72, 0.59, 0.65, 0.43, 0.72, 0.54, 0.71, 0.629),
        "DenseNet201 (ilias-ant)": (0.73, 0.66, 0.62, 0.47, 0.73, 0.54, 0.72, 0.645),
        "two-model ensemble (ilias-ant)": (0.645,),
    },
    PUBLIC: {
        # He et al. 2021, Scientific Reports, s41598-021-88578-w
        "three-network ensemble (He et al.)": (0.74,),
    },
}


def published_kappa() -> dict[str, pd.DataFrame]:
    """Return published kappas by test set ("official validation set (1,199 studies, ...)").

    Models are rows, body parts and ``"all"`` columns, NaN where nothing was published. Rows of
    different test sets do not rank each other.
    """
    columns = [*BODY_PARTS, "all"]
    return {
        f"{test_set} ({TEST_SETS[test_set]})": pd.DataFrame(
            {name: pd.Series(row, columns[-len(row) :]) for name, row in rows.items()}, columns
        ).T
        for test_set, rows in KAPPAS.items()
    }
