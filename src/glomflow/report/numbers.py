"""Numbers as a reader wants them: rounded, with their interval."""

from __future__ import annotations

import math

NOTHING = "–"
"""What stands where there is no number."""

NBSP = "\u00a0"


def number(value: float | None, digits: int = 2) -> str:
    """Formats a number: ``0.87``; a dash where it is missing."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def signed(value: float | None, digits: int = 2) -> str:
    """Formats a difference with its sign: ``+0.06``."""
    text = number(value, digits)
    return (
        f"+{text}"
        if value is not None and math.isfinite(value) and float(f"{value:.{digits}f}") > 0
        else text
    )


def percent(value: float | None, digits: int = 0) -> str:
    """Formats a share: ``87 %``."""
    text = number(None if value is None else 100 * value, digits)
    return text if text == NOTHING else f"{text}{NBSP}%"


def spread(value: float, sd: float, digits: int = 2) -> str:
    """Formats a mean and its standard deviation: ``0.87 ± 0.04``."""
    if not math.isfinite(sd):
        return number(value, digits)
    return f"{number(value, digits)}{NBSP}±{NBSP}{number(sd, digits)}"


def interval(value: float, lower: float, upper: float, digits: int = 2) -> str:
    """Formats a number with its interval: ``0.87 (0.78–0.94)``; ``to`` where an end is negative."""
    if not (math.isfinite(lower) and math.isfinite(upper)):
        return number(value, digits)
    return f"{number(value, digits)}{NBSP}({_ends(number(lower, digits), number(upper, digits))})"


def signed_interval(value: float, lower: float, upper: float, digits: int = 2) -> str:
    """Formats a difference with its interval: ``+0.06 (−0.02 to 0.14)``."""
    if not (math.isfinite(lower) and math.isfinite(upper)):
        return signed(value, digits)
    return f"{signed(value, digits)}{NBSP}({_ends(number(lower, digits), number(upper, digits))})"


def points_interval(value: float, lower: float, upper: float) -> str:
    """Formats a difference of shares in percentage points: ``+6 (−2 to 14) points``."""
    return f"{signed_interval(100 * value, 100 * lower, 100 * upper, 0)}{NBSP}points"


def percent_interval(lower: float, upper: float) -> str:
    """Formats the ends of an interval of shares: ``78–94 %``."""
    return f"{_ends(number(100 * lower, 0), number(100 * upper, 0))}{NBSP}%"


def percent_cell(value: float, lower: float, upper: float, digits: int = 0) -> str:
    """Formats a share with its interval: ``87 % (78–94)``."""
    shown = interval(100 * value, 100 * lower, 100 * upper, digits)
    head, separator, tail = shown.partition(f"{NBSP}(")
    return f"{head}{NBSP}%{separator}{tail}" if head != NOTHING else head


def _ends(lower: str, upper: str) -> str:
    if lower.startswith("−") or upper.startswith("−"):
        return f"{lower}{NBSP}to{NBSP}{upper}"
    return f"{lower}–{upper}"


def p_value(value: float | None) -> str:
    """Formats a P value: ``0.012``, ``< 0.001``."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value < 0.001:
        return f"<{NBSP}0.001"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def p_text(value: float | None) -> str:
    """Formats a P value as words: ``P = 0.012``, ``P < 0.001``."""
    text = p_value(value)
    return f"P{NBSP}{text}" if text.startswith("<") else f"P{NBSP}={NBSP}{text}"


def count(value: int, singular: str, plural: str | None = None) -> str:
    """Formats a count with its noun: ``1 patient``, ``2 patients``."""
    noun = singular if value == 1 else plural or f"{singular}s"
    return f"{thousands(value)}{NBSP}{noun}"


def thousands(value: int) -> str:
    """Formats an integer with thin spaces between thousands: ``12 345``."""
    return f"{value:,}".replace(",", "\u202f")


def listing(words: list[str], last: str = "and") -> str:
    """Joins words: ``a``, ``a and b``, ``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"
