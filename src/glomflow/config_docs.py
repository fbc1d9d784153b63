"""Writes ``docs/config.md`` and ``schema/config.schema.json`` from the configuration's models.

Run ``python -m glomflow.config_docs`` in the repository after every change of
:mod:`glomflow.config`; a test compares the files with the models.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from glomflow.config import Config
from glomflow.config_check import NAME, default_words, is_section, readable_type, sections
from glomflow.files import write_text

MARKDOWN = "docs/config.md"
SCHEMA = "schema/config.schema.json"

_INTRODUCTION = f"""# Configuration

Generated from `src/glomflow/config.py` by `python -m glomflow.config_docs`; do not edit.

A key may be left out and then has the default given here, unless it says *needed*. An unknown key or a
wrong value stops the run before any job starts, with the corrected lines. `{NAME}` stands for a name of your
choice.
"""


def markdown() -> str:
    """Returns the reference of all keys as Markdown, one section per model."""
    return "\n".join([_INTRODUCTION, *(_section(path, model) for path, model in sections())])


def schema() -> dict[str, Any]:
    """Returns the JSON schema of the configuration."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


def write(root: Path) -> None:
    """Writes both files below the repository's root."""
    write_text(root / MARKDOWN, markdown())
    write_text(root / SCHEMA, schema_text())


def schema_text() -> str:
    """Returns the text of the schema file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _section(path: tuple[str, ...], model: type[BaseModel]) -> str:
    lines = [f"## {'.'.join(path) or 'Sections'}", "", model.__doc__ or "", ""]
    lines += ["| Key | Type and default | Meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        lines.append(f"| `{name}` | {_type_cell((*path, name), field)} | {_cell(field.description or '')} |")
    return "\n".join([*lines, ""])


def _type_cell(path: tuple[str, ...], field: FieldInfo) -> str:
    if isinstance(field.default, BaseModel):
        return f"section [{'.'.join(path)}]({_anchor(path)})"
    text = readable_type(field.annotation, field.metadata) + default_words(field)
    if get_origin(field.annotation) is dict and is_section(get_args(field.annotation)[1]):
        text += f"; see [{'.'.join((*path, NAME))}]({_anchor((*path, NAME))})"
    return _cell(text)


def _anchor(path: tuple[str, ...]) -> str:
    return "#" + "".join(path).lower()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
