"""Errors that name what is wrong and what to change.

Every error that a user can cause derives from :class:`GlomflowError`; a job prints its message
without a traceback (the traceback goes to the log).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class GlomflowError(Exception):
    """A problem that the user can mend; the message says how."""


class DivergedError(GlomflowError):
    """A training whose loss is no longer finite."""


class ConfigError(GlomflowError):
    """The configuration holds an unknown key or a value that cannot be used."""


class ImageError(GlomflowError):
    """One image cannot be used; the caller turns it into a row with a status and a reason.

    Args:
        status: Short machine-readable word, one of ``glomflow.tables.IMAGE_STATUSES``.
        reason: Sentence naming the file and what to do about it.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class Problem:
    """One problem of an input sheet.

    Attributes:
        source: File name of the sheet.
        row: Row number as a spreadsheet shows it (the header is row 1), or None for the whole sheet.
        column: Column name, or None.
        value: The offending value, or None.
        advice: What is wrong and what to do.
    """

    source: str
    row: int | None
    column: str | None
    value: str | None
    advice: str

    def __str__(self) -> str:
        where = self.source
        if self.row is not None:
            where += f", row {self.row}"
        if self.column is not None:
            where += f", column '{self.column}'"
        if self.value is not None:
            where += f", value '{self.value}'"
        return f"{where}: {self.advice}"


class CohortError(GlomflowError):
    """All problems found in the cohort's sheets, listed at once.

    Args:
        problems: Every problem found, in sheet order.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        lines = [f"{count} problem{'s' if count != 1 else ''} in the cohort sheets:"]
        lines += [f"  {number}. {problem}" for number, problem in enumerate(self.problems, 1)]
        super().__init__("\n".join(lines))
