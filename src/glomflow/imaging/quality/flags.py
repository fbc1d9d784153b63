"""From measures to flags: which threshold an image does not meet, and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from glomflow.config_quality import Flag, Quality

SAME_SCALE = 1.5
"""Focus is held against its threshold only up to this many times the scale asked for."""


@dataclass(frozen=True)
class Rule:
    """A flag: what it is read from and held against.

    Attributes:
        flag: Name of the flag.
        column: Measure, a column of the inventory.
        keys: Key of ``imaging.quality`` that holds the threshold, by modality.
        below: Whether the flag is set below the threshold, else above.
        words: What the measure is called.
    """

    flag: Flag
    column: str
    keys: Mapping[str, str]
    below: bool
    words: str


def _for(key: str, *modalities: str) -> dict[str, str]:
    return dict.fromkeys(modalities, key)


RULES = (
    Rule(
        "blurred",
        "focus",
        {"OM": "min_focus_om", "IM": "min_focus_im", "TEM": "min_focus_tem"},
        True,
        "focus",
    ),
    Rule("little_tissue", "tissue_fraction", _for("min_tissue", "OM", "TEM"), True, "tissue"),
    Rule("saturated", "saturated_fraction", _for("max_saturated", "OM", "TEM"), False, "saturated"),
    Rule("pen", "pen_fraction", _for("max_pen", "OM"), False, "pen marks"),
    Rule("fold", "fold_fraction", _for("max_fold", "OM"), False, "folds"),
    Rule("underexposed", "signal_to_noise", _for("min_signal_to_noise", "IM"), True, "signal to noise"),
    Rule("overexposed", "overexposed_fraction", _for("max_overexposed", "IM"), False, "clipped"),
    Rule("bleached", "bleached_fraction", _for("max_bleached", "IM"), False, "bleached"),
    Rule("drift", "drift", _for("max_drift", "TEM"), False, "drift"),
    Rule("contaminated", "contaminated_fraction", _for("max_contaminated", "TEM"), False, "dirt"),
    Rule("blank_area", "blank_fraction", _for("max_blank", "TEM"), False, "blank"),
)
"""All flags, in the order that they are told in."""


@dataclass(frozen=True)
class Finding:
    """A threshold that an image does not meet.

    Attributes:
        rule: The rule.
        value: The image's measure.
        threshold: The threshold.
        key: Full key of the configuration that sets the threshold.
    """

    rule: Rule
    value: float
    threshold: float
    key: str

    @property
    def flag(self) -> Flag:
        """Name of the flag."""
        return self.rule.flag

    def __str__(self) -> str:
        side = "below" if self.rule.below else "above"
        return f"{self.rule.column} {self.value:.3g} is {side} {self.threshold:g} ({self.key})"


def judge(measures: Mapping[str, float], modality: str, settings: Quality) -> list[Finding]:
    """Holds measures against their thresholds.

    Args:
        measures: Measures by column of the inventory; NaN where one does not apply.
        modality: OM, IM or TEM.
        settings: The thresholds.

    Returns:
        What is not met, in the order of :data:`RULES`.
    """
    found = []
    for rule in RULES:
        key = rule.keys.get(modality)
        if key is None or (rule.flag == "blurred" and not _comparable(measures, modality, settings)):
            continue
        value, threshold = float(measures[rule.column]), float(getattr(settings, key))
        # Comparisons with NaN are false, so what does not apply sets no flag.
        if value < threshold if rule.below else value > threshold:
            found.append(Finding(rule, value, threshold, f"imaging.quality.{key}"))
    return found


def _comparable(measures: Mapping[str, float], modality: str, settings: Quality) -> bool:
    scale = measures["focus_um_per_px"]
    asked = {
        "OM": settings.om_um_per_px,
        "IM": settings.im_um_per_px,
        "TEM": settings.tem_nm_per_px / 1000.0,
    }[modality]
    return not math.isnan(scale) and scale <= SAME_SCALE * asked
