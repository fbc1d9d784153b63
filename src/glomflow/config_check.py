"""Validation of a configuration with advice: the path, what is wrong, and the corrected lines."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from glomflow.config import Config
from glomflow.errors import ConfigError
from glomflow.suggest import nearest

NAME = "NAME"
"""Stands for the user's own name in paths such as ``diagnosis.models.NAME.smil``."""

_MAX_LINES = 8
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_WORDS = {
    Any: ("a value", "values"),
    int: ("whole number", "whole numbers"),
    float: ("number", "numbers"),
    str: ("text", "texts"),
    bool: ("`true` or `false`", "`true` or `false`"),
}
_REPLACED = (("diagnosis", "models"), ("few_shot", "adapted"), ("vlm", "backbones"))
"""Sections whose names in a file laid over replace those of the default file."""
_LIMITS = (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))


def load_config(raw: dict[str, Any], laid_over: Mapping[str, Any] | None = None) -> Config:
    """Validates a configuration.

    Args:
        raw: The configuration as read from YAML; sections and keys that are absent get their defaults.
        laid_over: The part of ``raw`` that the user laid over the default file. Where it names models,
            they take the place of the default file's, which ``raw`` holds as well. The adapted models of
            the default file are the phantom's: where it names another cohort and lists none, there are none.

    Raises:
        ConfigError: Every unknown key and wrong value, each with its dotted path, the nearest right
            name or the allowed values, and the corrected lines.
    """
    if not isinstance(raw, dict):
        raise ConfigError(
            f"config: the file holds {_shown(raw)}, not sections; write 'run:', 'cohort:' and so on at the "
            "start of lines, with their keys below, indented"
        )
    try:
        raw = _with_own_models(raw, laid_over or {})
        return Config.model_validate(raw)
    except ValidationError as error:
        found = [_advice(problem, raw) for problem in error.errors(include_url=False)]
    count = f"config: {len(found)} problems\n" if len(found) > 1 else ""
    raise ConfigError(count + "\n".join(f"config: {text}" for text in found))


def _with_own_models(raw: dict[str, Any], laid_over: Mapping[str, Any]) -> dict[str, Any]:
    for section, key in _REPLACED:
        own = laid_over.get(section)
        if isinstance(own, Mapping) and isinstance(own.get(key), Mapping):
            raw = {**raw, section: {**raw[section], key: dict(own[key])}}
    cohort, few_shot = laid_over.get("cohort"), laid_over.get("few_shot")
    another = isinstance(cohort, Mapping) and cohort.get("source", "phantom") != "phantom"
    listed = isinstance(few_shot, Mapping) and "adapted" in few_shot
    if another and not listed and isinstance(raw.get("few_shot"), Mapping):
        raw = {**raw, "few_shot": {**raw["few_shot"], "adapted": {}}}
    return raw


def field_help(path: str) -> str:
    """Returns type, default and meaning of a key.

    Args:
        path: Dotted path; any name may stand for a model's name.

    Raises:
        ConfigError: There is no such key.
    """
    parts = path.split(".")
    for depth in range(1, len(parts) + 1):
        if annotation_at(parts[:depth]) is None:
            known = _keys_at(parts[: depth - 1])
            right = nearest(parts[depth - 1], known)
            hint = f"; did you mean '{right}'?" if right else f"; the keys are {', '.join(known)}"
            raise ConfigError(f"config: there is no key '{'.'.join(parts[:depth])}'{hint}")
    field = field_at(parts)
    if field is None:
        return f"{path}: {annotation_at(parts).__doc__}"
    words = readable_type(field.annotation, field.metadata) + default_words(field)
    return f"{path}: {words}. {field.description}"


def annotation_at(parts: Sequence[str | int]) -> Any:
    """Returns the type that a path leads to, or None if there is none."""
    annotation: Any = Config
    for part in parts:
        annotation = _unwrap(annotation)[0]
        arguments = get_args(annotation)
        if is_section(annotation):
            field = annotation.model_fields.get(part)
            if field is None:
                return None
            annotation = field.annotation
        elif get_origin(annotation) is dict:
            annotation = arguments[1]
        elif get_origin(annotation) in (list, tuple) and isinstance(part, int):
            annotation = arguments[min(part, len(arguments) - 1)]
        else:
            return None
    return annotation


def field_at(parts: Sequence[str | int]) -> FieldInfo | None:
    """Returns the declaration of the key that a path leads to, or None for a named section."""
    parent = _unwrap(annotation_at(parts[:-1]))[0] if parts else None
    if parent is None or not is_section(parent):
        return None
    fields: dict[str, FieldInfo] = parent.model_fields
    return fields.get(str(parts[-1]))


def readable_type(annotation: Any, metadata: Sequence[Any] = (), *, plural: bool = False) -> str:
    """Returns a type in words, such as "list of whole numbers, each at least 1"."""
    annotation, inner, optional = _unwrap(annotation)
    limits = _limits([*metadata, *inner])
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        text = "one of " + ", ".join(f"`{value}`" for value in arguments)
    elif origin is list:
        each = readable_type(arguments[0], plural=True)
        text = f"list, each {each}" if each.startswith("one of") else f"list of {each}"
    elif origin is tuple:
        text = f"list of {len(arguments)} {readable_type(arguments[0], plural=True)}"
    elif origin is dict:
        each = "its own section" if is_section(arguments[1]) else readable_type(arguments[1])
        text = f"names, each with {each}"
    elif is_section(annotation):
        text = "section"
    elif origin in (Union, types.UnionType):
        text = "a number, `true` or `false`, or a text"
    else:
        text = _WORDS[annotation][plural]
    return (
        text
        + (", each" if plural and limits else "," if limits else "")
        + limits
        + (", or empty" if optional else "")
    )


def default_words(field: FieldInfo) -> str:
    """Returns "; default `value`" for a key, or nothing for a section."""
    default = field.default
    if isinstance(default, BaseModel):
        return ""
    if field.is_required():
        return "; needed"
    if isinstance(default, dict):
        return "; default: " + (", ".join(f"`{name}`" for name in default) or "none")
    return "; default: empty" if default is None else f"; default: `{_flow(default)}`"


def sections(
    model: type[BaseModel] = Config, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Yields every section with its path, in the order of the declarations."""
    yield path, model
    for name, field in model.model_fields.items():
        annotation = _unwrap(field.annotation)[0]
        inner = (*path, name)
        if get_origin(annotation) is dict:
            annotation, inner = _unwrap(get_args(annotation)[1])[0], (*inner, NAME)
        if is_section(annotation):
            yield from sections(annotation, inner)


def is_section(annotation: Any) -> bool:
    """Tells whether a type is a section of the configuration."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _unwrap(annotation: Any) -> tuple[Any, list[Any], bool]:
    """Takes ``Annotated`` and ``| None`` off a type; also returns constraints and whether None is valid."""
    metadata: list[Any] = []
    optional = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *found = get_args(annotation)
            for item in found:
                metadata += item.metadata if isinstance(item, FieldInfo) else [item]
        elif origin in (Union, types.UnionType):
            members = [member for member in get_args(annotation) if member is not type(None)]
            optional = len(members) < len(get_args(annotation))
            if len(members) > 1:
                return annotation, metadata, optional
            annotation = members[0]
        else:
            return annotation, metadata, optional


def _limits(metadata: Sequence[Any]) -> str:
    words = [
        f"{word} {getattr(item, name):g}"
        for name, word in _LIMITS
        for item in metadata
        if hasattr(item, name)
    ]
    words += [f"at least {item.min_length} of them" for item in metadata if hasattr(item, "min_length")]
    if any(getattr(item, "pattern", None) for item in metadata):
        words.append("of letters, digits, '_' and '-' only")
    return " " + " and ".join(words) if words else ""


def _keys_at(parts: Sequence[str | int]) -> list[str]:
    annotation = _unwrap(annotation_at(parts))[0]
    return list(annotation.model_fields) if is_section(annotation) else []


def _dotted(parts: Sequence[str | int]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def _flow(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _lines(parts: Sequence[str | int], value: Any) -> str:
    """Returns the YAML lines that set a key, indented below a message."""
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(parts)]
    if isinstance(value, dict) and value:
        block = yaml.safe_dump(value, sort_keys=False).splitlines()
        block = [*block[:_MAX_LINES], "..."] if len(block) > _MAX_LINES else block
        lines += ["  " * len(parts) + line for line in block]
    else:
        lines[-1] += f" {_flow(value)}"
    return " Write:\n" + "\n".join("    " + line for line in lines)


def _advice(problem: Any, raw: dict[str, Any]) -> str:
    parts: tuple[str | int, ...] = problem["loc"]
    kind: str = problem["type"]
    value = problem["input"]
    if kind == "value_error":
        text = str(problem["ctx"]["error"])
        # Sections that stand in several places name their keys only; the path says which is meant.
        return text if not parts or text.startswith(f"{parts[0]}.") else f"{_dotted(parts)}.{text}"
    if kind in ("extra_forbidden", "invalid_key"):
        return _unknown_key(parts, value)
    if parts and parts[-1] == "[key]":
        return _wrong_name(parts[:-1], kind)
    return _wrong_content(parts, kind, value, raw)


def _wrong_name(parts: Sequence[str | int], kind: str) -> str:
    text = f"'{parts[-1]}' in '{_dotted(parts[:-1])}'"
    if kind == "string_type":
        return f"{text} is not text; write the name in quotes"
    return f"{text} is no usable name; use letters, digits, '_' and '-'"


def _wrong_content(parts: Sequence[str | int], kind: str, value: Any, raw: dict[str, Any]) -> str:
    if kind == "missing":
        if not isinstance(parts[-1], int):
            return f"'{_dotted(parts)}' is missing; add it"
        parts = parts[:-1]
    annotation = _unwrap(annotation_at(parts))[0]
    if is_section(annotation):
        return (
            f"section '{_dotted(parts)}' holds {_shown(value)}; give it keys ({', '.join(_keys_at(parts))}), "
            "indented below it, or delete the line"
        )
    if kind == "literal_error":
        return _wrong_choice(parts, value, annotation, raw)
    return _wrong_value(parts, value, annotation, raw)


def _unknown_key(parts: Sequence[str | int], value: Any) -> str:
    *parents, key = parts
    known = _keys_at(parents)
    text = f"unknown key '{_dotted([*parents, str(key)])}'; "
    right = nearest(str(key), known)
    if right is not None:
        return f"{text}did you mean '{right}'?{_lines([*parents, right], value)}"
    elsewhere = [
        (*path, name)
        for path, model in sections()
        for name in model.model_fields
        if name.casefold() == str(key).casefold()
    ]
    if isinstance(value, dict):
        # Of several sections of this name, the one that was meant knows the keys that are in it.
        elsewhere = [path for path in elsewhere if set(value) <= set(_keys_at(path))] or elsewhere
    if len(elsewhere) == 1:
        return f"{text}it belongs in '{_dotted(elsewhere[0][:-1])}'.{_lines(elsewhere[0], value)}"
    if elsewhere:
        return f"{text}keys of this name are {', '.join(map(_dotted, elsewhere))}; move it or delete it"
    where = f"'{_dotted(parents)}'" if parents else "the configuration"
    return f"{text}delete it or use one of the keys of {where}: {', '.join(known)}"


def _wrong_choice(parts: Sequence[str | int], value: Any, annotation: Any, raw: dict[str, Any]) -> str:
    allowed = [str(choice) for choice in get_args(annotation)]
    # YAML reads an unquoted 'no' or 'off' as a truth value.
    word = "none" if value is None or value is False else str(value)
    right = nearest(word, allowed)
    text = f"'{_dotted(parts)}' is {_shown(value)}, which is not one of {', '.join(allowed)}"
    if right is None:
        return f"{text}; choose one of these"
    text += f"; did you mean '{right}'?"
    return text + _corrected(parts, right, raw)


def _corrected(parts: Sequence[str | int], right: Any, raw: Any) -> str:
    """Returns the lines that put ``right`` in place; for an element of a list, the whole list."""
    if not isinstance(parts[-1], int):
        return _lines(parts, right)
    for part in parts[:-1]:
        raw = raw[part]
    items = list(raw)
    items[parts[-1]] = right
    return _lines(parts[:-1], items)


def _wrong_value(parts: Sequence[str | int], value: Any, annotation: Any, raw: dict[str, Any]) -> str:
    named = parts[:-1] if isinstance(parts[-1], int) else parts
    field = field_at(named)
    metadata = field.metadata if field is not None and named == parts else ()
    declared = field.annotation if field is not None and named == parts else annotation_at(parts)
    text = f"'{_dotted(parts)}' is {_shown(value)}; expected: {readable_type(declared, metadata)}."
    if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value) and annotation is float:
        return text + _corrected(parts, float(value.replace(",", ".")), raw)
    if get_origin(annotation) is list and isinstance(value, (str, int, float)):
        element = _unwrap(get_args(annotation)[0])[0]
        return text + _lines(parts, [str(value) if element is str else value])
    if field is None or field.default is None or isinstance(field.default, dict):
        return f"{text} {field.description}" if field is not None else text
    return text + " For example, the default." + _lines(named, field.default)
