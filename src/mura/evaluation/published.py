"""Published kappas as tables, to stand beside this project's."""

import pandas as pd

from mura.data.manifest import BODY_PARTS
from mura.phantom.counts import RESULTS, TEST_SETS


def published_kappa() -> dict[str, pd.DataFrame]:
    """Return test set ("official validation set (1,199 studies, ...)") to published kappas.

    Models are rows (name, the source in a column ``source``), body parts and ``"all"`` columns,
    NaN where nothing was published. Rows of different test sets do not rank each other.
    """
    blocks = {}
    for test_set, description in TEST_SETS.items():
        rows = [result for result in RESULTS if result.test_set == test_set]
        table = pd.DataFrame([result.kappa for result in rows], columns=[*BODY_PARTS, "all"])
        table.index = pd.Index([result.name for result in rows], name="model")
        blocks[f"{test_set} ({description})"] = table.assign(source=[r.source for r in rows])
    return blocks
