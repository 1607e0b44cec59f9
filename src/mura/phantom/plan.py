"""Which patients, studies and views a phantom of a given scale has: MURA's own counts, scaled."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np

from mura.phantom import counts as published

# MURA's own order of body parts in its CSV files.
PART_ORDER = (
    *("XR_SHOULDER", "XR_HUMERUS", "XR_FINGER", "XR_ELBOW"),
    *("XR_WRIST", "XR_FOREARM", "XR_HAND"),
)
_Cell = tuple[str, int]  # body part and label


@dataclass(frozen=True)
class StudyPlan:
    """One study before it is drawn."""

    split: str
    body_part: str
    label: int
    patient: int
    number: int  # study1, study2, ... of this patient and body part
    views: int

    @property
    def folder(self) -> str:
        """The study's path relative to the root, without a trailing slash."""
        study = f"study{self.number}_{'positive' if self.label else 'negative'}"
        return f"{self.split}/{self.body_part}/patient{self.patient:05d}/{study}"


def plan_studies(scale: float, seed: int) -> list[StudyPlan]:
    """Plan both splits; at ``scale=1`` every published count is met exactly.

    That is: images and studies per split, body part and label; patients per split, those with
    several body parts and those with both labels; and the distribution of views per study.
    """
    train = _plan_split("train", scale, 1, np.random.default_rng([seed, 0]))
    first = 1 + max(study.patient for study in train)
    return train + _plan_split("valid", scale, first, np.random.default_rng([seed, 1]))


def _plan_split(
    split: str, scale: float, first: int, random: np.random.Generator
) -> list[StudyPlan]:
    cells = [(part, label) for part in PART_ORDER for label in (0, 1)]
    counts = published.STUDY_COUNTS[split]
    sizes = {(part, label): max(1, round(counts[part][label] * scale)) for part, label in cells}
    views = _plan_views(split, sizes, random)
    groups = _plan_patients(split, scale, sizes, random)

    # Patients are numbered by body part, as MURA's are on the whole.
    groups.sort(key=lambda group: PART_ORDER.index(group[0][0]))
    planned = []
    for patient, group in enumerate(groups, first):
        seen = Counter()  # studies by body part
        for part, label in group:
            seen[part] += 1
            shown = views[part, label].pop()
            planned.append(StudyPlan(split, part, label, patient, seen[part], shown))
    return sorted(planned, key=lambda s: (PART_ORDER.index(s.body_part), s.patient, s.number))


def _plan_views(
    split: str, sizes: dict[_Cell, int], random: np.random.Generator
) -> dict[_Cell, list[int]]:
    """Deal the published numbers of views to the cells so that each has its share of images."""
    distribution = published.VIEWS_PER_STUDY[split]
    numbers = _apportion(np.array(list(distribution.values())), sum(sizes.values()))
    dealt = np.repeat(list(distribution), numbers)
    random.shuffle(dealt)
    images = np.array([published.IMAGE_COUNTS[split][part][label] for part, label in sizes])
    studies = np.array([published.STUDY_COUNTS[split][part][label] for part, label in sizes])
    wanted = _apportion(images / studies * list(sizes.values()), int(dealt.sum()))

    hands = np.split(dealt, np.cumsum(list(sizes.values()))[:-1])
    for _ in range(100_000):
        surplus = np.array([hand.sum() for hand in hands]) - wanted
        if not surplus.any():
            break
        if not _exchange(hands[surplus.argmax()], hands[surplus.argmin()]):
            break  # tiny scales only: no two studies left that differ by a view
    for hand in hands:
        random.shuffle(hand)
    return {cell: list(map(int, hand)) for cell, hand in zip(sizes, hands, strict=True)}


def _exchange(giver: np.ndarray, taker: np.ndarray) -> bool:
    """Swap a study of one view more for one of one view fewer; False where there is none."""
    for more in sorted(set(giver), reverse=True):
        if more - 1 in taker:
            i, j = np.flatnonzero(giver == more)[0], np.flatnonzero(taker == more - 1)[0]
            giver[i], taker[j] = taker[j], giver[i]
            return True
    return False


def _plan_patients(
    split: str, scale: float, sizes: dict[_Cell, int], random: np.random.Generator
) -> list[list[_Cell]]:
    """Group studies into patients: pairs of four kinds, and patients with a single study."""
    total = sum(sizes.values())
    extra = max(0, total - round(published.PATIENT_COUNTS[split] * scale))
    extra = min(extra, total // 2)  # each takes two studies
    several = min(extra, round(published.PATIENTS_WITH_SEVERAL_PARTS[split] * scale))
    both = min(extra, round(published.PATIENTS_WITH_BOTH_LABELS[split] * scale))
    # Pairs with both labels are shared out between one and two body parts in proportion.
    both_several = round(both * several / max(extra, 1))
    left = dict(sizes)
    groups: list[list[_Cell]] = []
    for other_part, other_label, number in (
        (True, True, both_several),
        (False, True, both - both_several),
        (True, False, several - both_several),
        (False, False, extra - several - (both - both_several)),
    ):
        for _ in range(number):
            groups += _draw_pair(left, other_part, other_label, random)
    groups += [[cell] for cell, count in left.items() for _ in range(count)]
    random.shuffle(groups)
    return groups


def _draw_pair(
    left: dict[_Cell, int], other_part: bool, other_label: bool, random: np.random.Generator
) -> list[list[_Cell]]:
    """Take one pair out of ``left``, drawn as often as its cells are large; none if none fits."""
    weights = {}
    for one, two in itertools.product(left, left):
        spare = left[one] * (left[two] - (one == two))
        if spare > 0 and (one[0] != two[0], one[1] != two[1]) == (other_part, other_label):
            weights[one, two] = float(spare)
    if not weights:
        return []
    shares = np.array(list(weights.values()))
    one, two = list(weights)[random.choice(len(shares), p=shares / shares.sum())]
    left[one] -= 1
    left[two] -= 1
    return [[one, two]]


def _apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Return whole numbers in proportion to ``shares`` that add up to ``total``."""
    exact = shares / shares.sum() * total
    whole = np.floor(exact).astype(int)
    whole[np.argsort(whole - exact, kind="stable")[: total - whole.sum()]] += 1
    return whole
