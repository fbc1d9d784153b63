"""Writes ``docs/formats.md`` from the table of formats.

Run ``python -m glomflow.imaging.readers.formats_docs`` in the repository after every change of
:mod:`glomflow.imaging.readers.formats`; a test compares the file with the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

from glomflow.files import write_text
from glomflow.imaging.readers.formats import FEATURES, READERS, ReaderInfo

MARKDOWN = "docs/formats.md"

_INTRODUCTION = """# Image formats

Generated from `src/glomflow/imaging/readers/formats.py` by
`python -m glomflow.imaging.readers.formats_docs`; do not edit. `glomflow formats` prints the table and
says which libraries are installed.

A file's content decides how it is read, its suffix only where content does not tell (slides of scanners
are TIFF inside). A library that is an extra is installed with `pip install "glomflow[czi]"` and the like;
without it the image gets the status `unsupported_format` and a reason that names the extra.
"""

_RULES = """
## What is done with more than a plane

- **Channels** stay channels, with the names that the file gives them. Three channels that the file calls
  red, green and blue are a colour image.
- **z**: a grey stack is projected by its maximum, as is usual for fluorescence; of a colour stack the first
  plane is read, since no plane of a section is sharper than another everywhere.
- **Time**: the first time is read.
- **Several images in a file**: the first is read; a CZI's scenes are shown together where they lie on the
  slide. If another one is meant, export it as OME-TIFF.
- **Stacks of electron micrographs** (DM3, DM4, MRC) are tilt series, drift frames or spectra as often as
  sections, and which frame to take cannot be told: they are refused with a reason.

## Pixel sizes

The pixel size comes from `images.csv`, else from the file, else from `imaging.ingest`. Of the file, only
what is a length counts: resolution tags coarser than 5 µm are print resolutions, reciprocal units (1/nm)
belong to diffraction patterns, and an MRC of exactly 1 Å comes from a program that did not know better.
Leica's lengths run from the centre of the first pixel to that of the last. Pixels that are not square give
the status `anisotropic`, unless `cohort.allow_anisotropic: true`.

## What cannot be used

Samples that are no finite numbers (NaN, infinite), complex samples, and colour spaces other than grey, RGB
and YCbCr are refused with a reason, and so are files that end before their pixels do.

## Images of several files

An OME-Zarr and a DICOM slide are folders: write the folder's path into `images.csv`. The folder beside an
MRXS (`slide.mrxs`, `slide/`) and the files that a VMS names belong to the image. All of them enter its
digest, and a change of any of them redoes the shard.
"""


def markdown() -> str:
    """Returns the page as Markdown."""
    lines = [_INTRODUCTION, "| Format | Suffixes | Library | Extra | Features |", "|---|---|---|---|---|"]
    lines += [_row(info) for info in READERS]
    lines += ["", *(f"- `{name}`: {meaning}" for name, meaning in FEATURES.items())]
    lines += ["", "| Format | What is read |", "|---|---|"]
    lines += [f"| {info.title} | {info.note} |" for info in READERS]
    return "\n".join(lines) + "\n" + _RULES


def _row(info: ReaderInfo) -> str:
    suffixes = " ".join(f"`{suffix}`" for suffix in info.suffixes)
    extra = f"`{info.extra}`" if info.extra else "always there"
    features = ", ".join(feature for feature in FEATURES if feature in info.features)
    return f"| {info.title} | {suffixes} | {info.library} | {extra} | {features} |"


def write(root: Path) -> None:
    """Writes the page below the repository's root."""
    write_text(root / MARKDOWN, markdown())


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd())
