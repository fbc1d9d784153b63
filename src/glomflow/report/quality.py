"""Image quality in the report: flags in words, and how many images have them."""

from __future__ import annotations

import pandas as pd

from glomflow.config_quality import Quality
from glomflow.imaging.quality.flags import RULES, Rule
from glomflow.report.blocks import Table
from glomflow.report.numbers import NBSP, NOTHING, percent, thousands
from glomflow.tables import MODALITIES

JUDGED = ("ok", "poor_quality")
"""Statuses of images whose quality counts."""

FLAGS = {
    "blurred": "blurred",
    "little_tissue": "little tissue",
    "saturated": "saturated",
    "pen": "pen marks",
    "fold": "folds",
    "underexposed": "underexposed, or a negative marker",
    "overexposed": "overexposed",
    "bleached": "bleached",
    "drift": "drift",
    "contaminated": "dirt",
    "blank_area": "mostly blank",
}
"""Flags in words."""

_NUMBERS = frozenset({"focus", "signal_to_noise", "drift"})
"""Measures that are not shares."""


def shown_value(rule: Rule, value: float) -> str:
    """Formats a measure or its threshold."""
    return f"{value:.2g}" if rule.column in _NUMBERS else percent(value, 1)


def flagged(rows: pd.DataFrame, flag: str) -> pd.DataFrame:
    """Returns the INVENTORY rows that have a flag."""
    return rows[rows["quality"].fillna("").str.split(";").map(lambda flags: flag in flags)]


def judged_images(inventory: pd.DataFrame) -> pd.DataFrame:
    """Returns the INVENTORY rows whose quality counts."""
    return inventory[inventory["status"].isin(JUDGED)]


def flags_table(inventory: pd.DataFrame, settings: Quality) -> Table:
    """Counts the images with each flag, by modality.

    Args:
        inventory: INVENTORY rows.
        settings: The thresholds that were used.

    Returns:
        A row per flag that applies to a modality that there is; the flag's threshold beside its count.
    """
    judged = judged_images(inventory)
    present = [name for name in MODALITIES if (judged["modality"] == name).any()]
    rows = []
    for rule in RULES:
        if not any(name in rule.keys for name in present):
            continue
        cells = []
        for name in present:
            key = rule.keys.get(name)
            of_modality = judged[judged["modality"] == name]
            side = "<" if rule.below else ">"
            cells += (
                [NOTHING, NOTHING]
                if key is None
                else [
                    thousands(len(flagged(of_modality, rule.flag))),
                    f"{side}{NBSP}{shown_value(rule, float(getattr(settings, key)))}",
                ]
            )
        rows.append((FLAGS[rule.flag], *cells, "left out" if rule.flag in settings.exclude else "kept"))
    left_out = int((judged["status"] == "poor_quality").sum())
    return Table(
        caption=f"Images flagged as poor, of {thousands(len(judged))} judged, by modality.",
        headers=("flag", *(part for name in present for part in (name, f"{name} if")), "such images are"),
        rows=rows,
        text_columns=frozenset({0, 1 + 2 * len(present)}),
        note=f"{thousands(left_out)} left out for their quality. An image may have several flags.",
    )
