"""Reading one CSV sheet as text, with every problem of its form listed."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from glomflow.errors import Problem
from glomflow.suggest import did_you_mean, nearest
from glomflow.tables import Schema

OWN_PREFIX = "x_"
"""Columns whose names start with this are the user's own and are left alone."""

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


@dataclass
class Sheet:
    """A sheet's cells as text.

    Attributes:
        name: File name of the sheet, for messages.
        frame: A text column for every known column ('' where empty or absent), and ``row``, the row
            number as a spreadsheet shows it.
        present: Known columns that the sheet really has.
        problems: Everything found wrong so far.
    """

    name: str
    frame: pd.DataFrame
    present: frozenset[str]
    problems: list[Problem] = field(default_factory=list)

    def flag(self, mask: pd.Series[bool], column: str, advice: str | Callable[[str], str]) -> None:
        """Adds a problem for every row of ``mask``.

        Args:
            mask: Rows, aligned with ``frame``.
            column: Column at fault.
            advice: What is wrong and what to do, or a function of the value that says so.
        """
        for row, value in zip(self.frame.loc[mask, "row"], self.frame.loc[mask, column], strict=True):
            text = advice if isinstance(advice, str) else advice(value)
            self.add(int(row), column, value or None, text)

    def add(self, row: int | None, column: str | None, value: str | None, advice: str) -> None:
        """Adds one problem."""
        self.problems.append(Problem(self.name, row, column, value, advice))

    def sorted_problems(self) -> list[Problem]:
        """Returns the problems in row order, those of the whole sheet first."""
        return sorted(self.problems, key=lambda problem: problem.row or 0)

    def require_cells(self, columns: Iterable[str]) -> None:
        """Adds a problem for every empty cell of columns that must be filled."""
        for column in columns:
            if column in self.present:
                self.flag(self.frame[column] == "", column, "the cell is empty; fill it in")


def read_sheet(
    folder: Path,
    name: str,
    *,
    required: Sequence[str],
    optional: Sequence[str],
    keep: Callable[[str], bool] | None = None,
) -> Sheet:
    """Reads a comma-separated UTF-8 sheet; every cell stays text, so that '007' stays '007'.

    Blanks around values and a byte-order mark are dropped, and so are rows without any value. Problems
    of form are collected in the result instead of being raised.

    Args:
        folder: The cohort folder.
        name: File name of the sheet in it.
        required: Columns that the sheet must have.
        optional: Columns that it may have.
        keep: Tells of a patient whether the rows are wanted; the others are left out unseen.
    """
    known = [*required, *optional]
    sheet = Sheet(name, _frame({}, known, []), frozenset())
    text = _decode(sheet, folder / name, required)
    if text is None:
        return sheet
    if not _comma_separated(sheet, io.StringIO(text, newline=None).readline()):
        return sheet
    records = _records(sheet, text)
    if not records:
        return sheet
    header = [cell.strip() for cell in records[0]]
    wanted = enumerate(records[1:], 2) if keep is None else _wanted(records, header, keep)
    rows = [(number, cells) for number, cells in wanted if any(map(str.strip, cells))]
    columns = _columns(sheet, header, rows)
    _check_header(sheet, columns, required, known)
    if not rows and not (keep and any(any(map(str.strip, cells)) for cells in records[1:])):
        sheet.add(None, None, None, "the sheet has a header but no rows; fill it in")
        return sheet
    sheet.frame = _frame(columns, known, [number for number, _ in rows])
    sheet.present = frozenset(columns) & frozenset(known)
    return sheet


def _wanted(
    records: list[list[str]], header: list[str], keep: Callable[[str], bool]
) -> Iterable[tuple[int, list[str]]]:
    rows = enumerate(records[1:], 2)
    if "patient" not in header:
        return rows
    place = header.index("patient")
    return [row for row in rows if keep(row[1][place].strip() if place < len(row[1]) else "")]


def _frame(columns: dict[str, list[str]], known: Sequence[str], rows: list[int]) -> pd.DataFrame:
    data: dict[str, pd.Series] = {
        name: pd.Series(columns.get(name, [""] * len(rows)), dtype="str") for name in known
    }
    return pd.DataFrame({**data, "row": pd.Series(rows, dtype="int64")})


def _decode(sheet: Sheet, path: Path, required: Sequence[str]) -> str | None:
    if not path.is_file():
        found = [entry.name for entry in path.parent.glob("*.csv")] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, found)
        sheet.add(None, None, None, f"the sheet is not in {path.parent}{hint or '; put it there'}")
        return None
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        sheet.add(row, None, None, "the sheet is not UTF-8 text; save it as 'CSV UTF-8 (comma delimited)'")
        return None
    if not text.strip():
        sheet.add(None, None, None, f"the sheet is empty; its first row must read '{','.join(required)}'")
        return None
    return text


def _records(sheet: Sheet, text: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return list(reader)
    except csv.Error as error:
        advice = f"this is not valid CSV ({error}); mend the double quotes around this row's values"
        sheet.add(reader.line_num, None, None, advice)
        return []


def _comma_separated(sheet: Sheet, first_line: str) -> bool:
    """Looks at the header before the rest is parsed: quotes of another separator make no valid CSV."""
    if "," in first_line:
        return True
    for separator, words in _SEPARATORS.items():
        if separator in first_line:
            sheet.add(
                1,
                None,
                None,
                f"the values are separated by {words}; save the sheet with commas (and '.' as decimal point)",
            )
            return False
    return True


def _columns(sheet: Sheet, header: list[str], rows: Sequence[tuple[int, list[str]]]) -> dict[str, list[str]]:
    width = len(header)
    cells = []
    for number, values in rows:
        if len(values) > width and any(map(str.strip, values[width:])):
            advice = (
                f"the row has {len(values)} values but the header {width} columns; put a value that "
                "holds a comma between double quotes"
            )
            sheet.add(number, None, None, advice)
        cells.append(values if len(values) == width else (values + [""] * width)[:width])
    columns: dict[str, list[str]] = {}
    for name, column in zip(header, zip(*cells, strict=True) if cells else [()] * width, strict=True):
        values = [value.strip() for value in column]
        if name in columns:
            sheet.add(1, name, None, "the header names this column twice; rename or delete one of them")
        elif name:
            columns[name] = values
        elif any(values):
            sheet.add(1, None, None, "a column with values has no name; name it or delete it")
    return columns


def _check_header(
    sheet: Sheet, columns: dict[str, list[str]], required: Sequence[str], known: Sequence[str]
) -> None:
    absent = [name for name in known if name not in columns]
    renamed: dict[str, str] = {}
    for name in columns:
        if name in known or name.startswith(OWN_PREFIX):
            continue
        right = nearest(name, absent)
        if right is not None and right in required:
            renamed.setdefault(right, name)
            continue
        hint = f"did you mean '{right}'? " if right else ""
        sheet.add(
            1,
            name,
            None,
            f"unknown column; {hint}the columns are {', '.join(known)}; a column of your own must start "
            f"with '{OWN_PREFIX}' ('{OWN_PREFIX}{name}')",
        )
    for name in required:
        if name in renamed:
            sheet.add(1, renamed[name], None, f"unknown column; rename it to '{name}', which is missing")
        elif name not in columns:
            sheet.add(1, name, None, f"the column is missing; add it to the header ({_purpose(name)})")


def _purpose(column: str) -> str:
    purposes = {
        "patient": "the patient's identifier",
        "label": "the label, one of cohort.classes",
        "site": "the hospital or laboratory; its cells may be empty",
        "modality": "OM, IM or TEM",
        "path": "the image file, from the cohort folder down",
        "image": "the image file, from the cohort folder down",
        "slide": "the slide that the crop was cut from",
    }
    return purposes[column]


def first_of(frame: pd.DataFrame, key: str, column: str) -> dict[str, Any]:
    """Returns, for every value of ``key``, the value of ``column`` in its first row."""
    first = frame.drop_duplicates(key)
    return dict(zip(first[key], first[column], strict=True))


def as_table(columns: dict[str, pd.Series], schema: Schema) -> pd.DataFrame:
    """Puts columns into the order and dtypes of a schema; empty text becomes missing.

    Args:
        columns: One series for every column of the schema.
        schema: One of :mod:`glomflow.tables`.
    """
    typed = {}
    for name, spec in schema.items():
        values = columns[name]
        dtype: Any = "str" if spec.dtype == "string" else spec.dtype
        typed[name] = values.mask(values == "").astype(dtype) if dtype == "str" else values.astype(dtype)
    return pd.DataFrame(typed).reset_index(drop=True)
