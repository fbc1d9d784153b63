"""What a page is made of: sections of paragraphs, tables, pictures, lists and listings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Prose:
    """A paragraph.

    Attributes:
        text: Plain text.
        lead: Whether it is set larger, as an opening.
    """

    text: str
    lead: bool = False
    kind: ClassVar[str] = "prose"


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str
    kind: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Bullets:
    """A list of named sentences.

    Attributes:
        items: Pairs of a name, set bold, and a text.
    """

    items: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class KeyFigures:
    """Numbers to see first.

    Attributes:
        items: Name, value and what stands beneath it.
    """

    items: Sequence[tuple[str, str, str]]
    kind: ClassVar[str] = "key_figures"


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        caption: What the table shows.
        headers: One per column.
        rows: Cells, as many as headers.
        text_columns: Columns that hold words; the others are aligned as numbers.
        path_columns: Text columns whose words may be long (paths, digests) and break anywhere.
        strong_rows: Rows that stand out.
        note: Text beneath the table.
    """

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: frozenset[int] = frozenset({0})
    path_columns: frozenset[int] = frozenset()
    strong_rows: frozenset[int] = frozenset()
    note: str = ""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        source: Data URI.
        alt: What is to be seen, for readers who cannot see it.
        caption: What it shows.
        width: Natural width, CSS px.
        height: Natural height, CSS px.
    """

    source: str
    alt: str
    caption: str
    width: int
    height: int
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class PictureRow:
    """Small figures beside each other."""

    pictures: Sequence[Picture]
    kind: ClassVar[str] = "picture_row"


@dataclass(frozen=True)
class Listing:
    """Text as a program writes it."""

    caption: str
    text: str
    kind: ClassVar[str] = "listing"


Block = Prose | Heading | Bullets | KeyFigures | Table | Picture | PictureRow | Listing


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        key: Anchor.
        title: Heading.
        blocks: Content, in order.
    """

    key: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
