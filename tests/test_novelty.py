"""Images that the network was not fitted on are far from those that it was."""

import numpy as np
import pytest
from made_runs import brightness_model
from networks import noise_images

from mura import models
from mura.export import LoadedModel
from mura.models import novelty


def discs(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Return bright discs on black, uint8[count, size, size]: a world of their own."""
    random = np.random.default_rng(seed)
    y, x = np.indices((size, size))
    squares = (x - random.integers(10, size - 10, (count, 1, 1))) ** 2
    squares = squares + (y - random.integers(10, size - 10, (count, 1, 1))) ** 2
    return (200 * (squares < random.integers(20, 80, (count, 1, 1)))).astype(np.uint8)


class FakeRun:
    decisions, environment = None, {"data": {"name": "discs"}}

    def __init__(self, found):
        self.novelty = found


@pytest.mark.parametrize("build", [brightness_model, lambda: models.build("cnn", 32)])
def test_what_the_fit_images_do_not_show_is_far(build):
    model, pixels = build(), discs(300, 32)
    found = novelty.fit(model, pixels, np.arange(200), np.arange(200, 300))
    assert found["references"].dtype == np.float16 and len(found["references"]) == 200
    asked = LoadedModel(model, FakeRun(found))
    known, fitted = discs(100, 32, seed=1)[..., None], pixels[:50, ..., None]
    assert (asked(known)["distance"] <= asked.threshold).mean() > 0.9
    assert asked(fitted)["distance"].max() < asked.threshold / 2
    for other in (noise_images(20, 32), 200 - known[:20]):
        assert (asked(other)["distance"] > asked.threshold).all()


def test_the_references_are_spread_out():
    points = np.array([[0.0], [0.1], [0.2], [5.0], [9.0]])
    assert sorted(novelty._spread(points, 3)[:, 0]) == [0.0, 5.0, 9.0]
    assert len(novelty._spread(points, 9)) == 5
