"""Which images the report shows as the worst."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from glomflow.config_quality import Quality
from glomflow.imaging.quality.flags import RULES, Rule
from glomflow.report.examples import read_picture, short
from glomflow.report.figures_images import Tile
from glomflow.report.numbers import thousands
from glomflow.report.quality import FLAGS, flagged, judged_images, shown_value
from glomflow.tables import MODALITIES


def worst_images(
    inventory: pd.DataFrame, folder: Path, settings: Quality, number: int
) -> dict[str, list[Tile]]:
    """Takes the thumbnails of the worst images: of every flag, then the least sharp of the others.

    Args:
        inventory: INVENTORY rows.
        folder: Folder that thumbnails are relative to.
        settings: The thresholds that were used.
        number: Most images of a group.

    Returns:
        Tiles by group, the worst first; captions name the patient, the value and, if it is so, that
        the image is left out.

    Raises:
        GlomflowError: A thumbnail is missing.
    """
    judged = judged_images(inventory)
    judged = judged[judged["thumbnail"].fillna("") != ""]
    groups = {}
    for rule in RULES:
        rows = flagged(judged, rule.flag)
        if len(rows):
            badness = rows[rule.column] * (1.0 if rule.below else -1.0)
            limits = [
                float(getattr(settings, rule.keys[str(name)])) or 1.0
                for name in rows["modality"]
                if str(name) in rule.keys
            ]
            rows = rows.assign(badness=badness / limits)
            shown = rows.sort_values(["badness", "image"]).head(number)
            groups[_title(FLAGS[rule.flag], len(shown), len(rows))] = _tiles(shown, folder, rule)
    fine = judged[judged["quality"].fillna("") == ""]
    for name in MODALITIES:
        rows = fine[(fine["modality"] == name) & fine["focus"].notna()].sort_values(["focus", "image"])
        if len(rows):
            groups[f"{name} without a flag: the least sharp"] = _tiles(rows.head(number), folder, RULES[0])
    return groups


def _title(words: str, shown: int, count: int) -> str:
    if shown == count:
        return f"{words}: {'1 image' if count == 1 else f'{thousands(count)} images'}"
    return f"{words}: the worst {shown} of {thousands(count)} images"


def _tiles(rows: pd.DataFrame, folder: Path, rule: Rule) -> list[Tile]:
    tiles = []
    records: list[Any] = rows.to_dict("records")
    for row in records:
        out = ", left out" if row["status"] == "poor_quality" else ""
        caption = (
            f"{short(row['patient'], 16)} · {row['modality']}{out}\n"
            f"{rule.words} {shown_value(rule, float(row[rule.column]))}"
        )
        tiles.append(Tile(read_picture(folder / row["thumbnail"]), caption))
    return tiles
