"""What the phantom cohort is drawn from: classes, appearances, and the accuracy they allow.

A patient's class is uniform. In each modality the patient looks either like the class or
'nondiagnostic', which is drawn alike for all classes, so that no classifier can know more than the
appearances tell. The best accuracy that any classifier can reach follows by enumeration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

CLASSES = ("IgAN", "MN", "LN")
MODALITIES = ("OM", "IM", "TEM")
NONDIAGNOSTIC = "nondiagnostic"
STAGES = ("I", "II", "III")
"""Stages of membranous nephropathy (Ehrenreich and Churg)."""

NONDIAGNOSTIC_TOGETHER: Mapping[tuple[str, ...], float] = {
    ("OM",): 0.45,
    ("IM",): 0.30,
    ("TEM",): 0.225,
    ("OM", "IM"): 0.15,
    ("OM", "TEM"): 0.10,
    ("IM", "TEM"): 0.085,
    ("OM", "IM", "TEM"): 0.015,
}
"""Probability that all the modalities named are nondiagnostic, whatever the others are."""

Cell = tuple[str, ...]


def modality_subsets() -> list[Cell]:
    """Returns all non-empty sets of modalities, single ones first."""
    return [subset for size in (1, 2, 3) for subset in combinations(MODALITIES, size)]


def cell_probabilities() -> dict[Cell, float]:
    """Returns the probability that exactly the modalities of a cell are nondiagnostic.

    The eight cells follow from ``NONDIAGNOSTIC_TOGETHER`` by inclusion and exclusion.
    """
    cells: list[Cell] = [(), *modality_subsets()]
    together = {(): 1.0, **NONDIAGNOSTIC_TOGETHER}
    return {
        cell: sum(
            (-1.0) ** (len(larger) - len(cell)) * together[larger]
            for larger in cells
            if set(cell) <= set(larger)
        )
        for cell in cells
    }


def appearance_of(label: str, cell: Cell) -> dict[str, str]:
    """Returns what each modality of a patient of that class looks like in that cell."""
    return {modality: NONDIAGNOSTIC if modality in cell else label for modality in MODALITIES}


def joint_distribution(subset: Sequence[str]) -> dict[tuple[str, ...], dict[str, float]]:
    """Returns P(appearances, class) as seen through some modalities.

    Args:
        subset: Modalities that are looked at.

    Returns:
        For each tuple of appearances, in the order of ``subset``, the probability of each class.
    """
    joint: dict[tuple[str, ...], dict[str, float]] = {}
    for label in CLASSES:
        for cell, probability in cell_probabilities().items():
            appearance = appearance_of(label, cell)
            seen = tuple(appearance[modality] for modality in subset)
            classes = joint.setdefault(seen, dict.fromkeys(CLASSES, 0.0))
            classes[label] += probability / len(CLASSES)
    return joint


def ceilings() -> dict[str, float]:
    """Returns the accuracy of the Bayes classifier for every set of modalities, such as 'OM+IM'."""
    return {
        "+".join(subset): round(sum(max(p.values()) for p in joint_distribution(subset).values()), 9)
        for subset in modality_subsets()
    }


def realised_ceilings(seen: Iterable[tuple[str, Mapping[str, str]]]) -> dict[str, float]:
    """Returns what the Bayes classifier is expected to score on the patients that were drawn.

    Args:
        seen: Class and appearances of each patient. A modality that the patient lacks counts as
            nondiagnostic: either says nothing.

    Returns:
        Expected accuracy for every set of modalities; equally likely classes are guessed among.
    """
    patients = list(seen)
    result = {}
    for subset in modality_subsets():
        joint = joint_distribution(subset)
        score = 0.0
        for label, appearance in patients:
            classes = joint[tuple(appearance[modality] for modality in subset)]
            best = max(classes.values())
            winners = [name for name, value in classes.items() if np.isclose(value, best, rtol=1e-9)]
            score += (label in winners) / len(winners)
        result["+".join(subset)] = round(score / len(patients), 9)
    return result


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Divides ``total`` by largest remainder.

    Args:
        total: Number to divide.
        shares: Non-negative shares that sum to 1.

    Returns:
        Whole numbers that sum to ``total``, each within 1 of its exact share.
    """
    exact = [total * share for share in shares]
    counts = [int(np.floor(value + 1e-9)) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def deal(values: Sequence[object], counts: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Returns indices into ``values``, each as often as ``counts`` says, in random order."""
    dealt = np.repeat(np.arange(len(values)), counts)
    return [int(index) for index in rng.permutation(dealt)]
