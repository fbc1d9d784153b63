"""A digest of the library code that a script reaches through imports.

Snakemake reruns a rule when its script changes, not when a module that the script imports changes;
rules therefore carry this digest as a parameter. Comments, docstrings, descriptions of configuration
keys, line numbers and the version number do not enter, so that editing them reruns nothing.

Parsing the library takes longer than all else that is done when the workflow is read, which every job on
a cluster does again; what each file contributes is therefore kept under the digest of its bytes.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glomflow.errors import GlomflowError
from glomflow.files import write_text

PACKAGE = "glomflow"

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

_Import = tuple[str, bool, int]
"""A dotted name that a file imports, whether it must be a module, and the line."""


@dataclass(frozen=True)
class _Source:
    """What a file contributes: its digest, and what it imports."""

    digest: str
    imports: tuple[_Import, ...]


class Library:
    """The code of the package as it is now; after an edit, make another.

    Args:
        src: Folder that holds the package.
        store: File that keeps what parsed files contribute for the next time; it is read where there is one,
            and may be deleted at any time.
    """

    def __init__(self, src: Path, store: Path | None = None) -> None:
        self.src = src
        self._store = store
        self._kept = _read_store(store) if store is not None else {}
        self._used: dict[str, _Source] = {}
        self._places: dict[str, Path | None] = {}
        self._imports: dict[str, list[tuple[str, Path]]] = {}
        self._digests: dict[str, str] = {}
        self._data: dict[Path, bytes] = {}

    def digest(self, script: Path) -> str:
        """Returns the SHA-256 of all library modules and package data that a script reaches.

        Imports are followed wherever they stand, also inside functions. Files of a package that are no
        modules, such as the report's templates, count when a module of the package is reached.

        Args:
            script: The script; its own text does not enter, since Snakemake watches it.

        Raises:
            GlomflowError: A file cannot be parsed, or imports a module of the package that does not exist.
        """
        digest = hashlib.sha256()
        reached = self._reached(script)
        for module in sorted(reached):
            digest.update(f"{module}\0{self._digests[module]}\0".encode())
        for folder in sorted({path.parent for path in reached.values()}):
            digest.update(self._data_of(folder))
        return digest.hexdigest()

    def reached(self, script: Path) -> list[str]:
        """Returns the dotted names of all library modules that a script reaches, sorted.

        Args:
            script: The script.

        Raises:
            GlomflowError: A file cannot be parsed, or imports a module of the package that does not exist.
        """
        return sorted(self._reached(script))

    def save(self) -> None:
        """Keeps what was parsed in the store, if there is one and it can be written."""
        if self._store is None or self._used.keys() <= self._kept.keys():
            return
        sources = {key: [one.digest, one.imports] for key, one in self._used.items()}
        # Without it the next time takes as long; that a folder is read-only is told elsewhere.
        with contextlib.suppress(OSError):
            write_text(self._store, json.dumps({"algorithm": _algorithm(), "sources": sources}))

    def _reached(self, script: Path) -> dict[str, Path]:
        reached: dict[str, Path] = {}
        waiting = list(self._resolved(self._read(script, ""), script))
        while waiting:
            module, path = waiting.pop()
            if module in reached:
                continue
            reached[module] = path
            if module not in self._imports:
                source = self._read(path, module)
                self._digests[module] = source.digest
                self._imports[module] = list(self._resolved(source, path))
            waiting += self._imports[module]
        return reached

    def _resolved(self, source: _Source, path: Path) -> Iterator[tuple[str, Path]]:
        """Yields the modules that a file imports, those that they lie in included, and where they are."""
        for name, certain, line in source.imports:
            parts = name.split(".")
            for depth in range(1, len(parts) + 1):
                module = ".".join(parts[:depth])
                place = self._place(module)
                if place is not None:
                    yield module, place
            if certain and self._place(name) is None and not self.src.joinpath(*parts).is_dir():
                raise GlomflowError(
                    f"{path}, line {line}: imports '{name}', which is not in {self.src}; correct it"
                )

    def _place(self, module: str) -> Path | None:
        if module not in self._places:
            base = self.src.joinpath(*module.split("."))
            paths = (base / "__init__.py", base.with_name(base.name + ".py"))
            # A folder without __init__.py is a namespace package: it has no code of its own.
            self._places[module] = next((path for path in paths if path.is_file()), None)
        return self._places[module]

    def _read(self, path: Path, module: str) -> _Source:
        data = path.read_bytes()
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        key = hashlib.sha256(f"{package}\0".encode() + data).hexdigest()
        if key not in self._used:
            self._used[key] = self._kept.get(key) or _parse(path, package, data)
        return self._used[key]

    def _data_of(self, folder: Path) -> bytes:
        """Returns names and digests of a package's files that are no modules."""
        if folder not in self._data:
            self._data[folder] = b"".join(
                f"{path.relative_to(self.src).as_posix()}\0{_bytes_digest(path)}\0".encode()
                for path in _data_files(folder)
            )
        return self._data[folder]


@functools.cache
def _algorithm() -> str:
    """Tells results of this file, under this Python's grammar, from those of another."""
    return f"{sys.version_info[0]}.{sys.version_info[1]} {_bytes_digest(Path(__file__))}"


def _read_store(store: Path) -> dict[str, _Source]:
    try:
        content = json.loads(store.read_bytes())
        if content["algorithm"] != _algorithm():
            return {}
        return {
            key: _Source(digest, tuple((name, certain, line) for name, certain, line in imports))
            for key, (digest, imports) in content["sources"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _parse(path: Path, package: str, data: bytes) -> _Source:
    try:
        tree = ast.parse(data, filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else str(path)
        raise GlomflowError(f"{where}: cannot be parsed ({error}); correct the file") from error
    imports = tuple(_static_imports(tree.body, package))
    if b"import_module" in data:
        imports += tuple(_dynamic_imports(tree))
    return _Source(hashlib.sha256(repr(_bare(tree)).encode()).hexdigest(), imports)


def _static_imports(body: list[ast.stmt], package: str) -> Iterator[_Import]:
    """Yields dotted names below the package, whether they must be modules, and the line."""
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if _ours(alias.name):
                    yield alias.name, True, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            if _ours(base):
                yield base, True, node.lineno
                for alias in node.names:
                    if alias.name != "*":
                        yield f"{base}.{alias.name}", False, node.lineno
        else:
            yield from _static_imports(_blocks(node), package)


def _blocks(node: ast.stmt) -> list[ast.stmt]:
    """Returns the statements inside a statement, less those that only type checkers see."""
    checked = isinstance(node, ast.If) and _name_of(node.test) == "TYPE_CHECKING"
    inner: list[ast.stmt] = [] if checked else list(getattr(node, "body", []))
    for name in ("orelse", "finalbody"):
        inner += getattr(node, name, [])
    for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
        inner += part.body
    return inner


def _dynamic_imports(tree: ast.Module) -> Iterator[_Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name_of(node.func) == "import_module" and node.args:
            argument = node.args[0]
            if (
                isinstance(argument, ast.Constant)
                and isinstance(argument.value, str)
                and _ours(argument.value)
            ):
                yield argument.value, True, node.lineno


def _ours(name: str) -> bool:
    return name == PACKAGE or name.startswith(PACKAGE + ".")


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _bare(node: Any) -> Any:
    """Returns a tree as nested lists, as ``ast.dump`` shows it, less docstrings and descriptions."""
    if isinstance(node, list):
        return [_bare(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    values = node.__dict__
    if isinstance(node, _DOCUMENTED):
        values = {**values, "body": [child for child in node.body if not _is_documentation(child)]}
    elif isinstance(node, ast.Call) and _name_of(node.func) == "Field":
        values = {**values, "keywords": [word for word in node.keywords if word.arg != "description"]}
    return [type(node).__name__, *[_bare(values.get(name)) for name in node._fields]]


def _is_documentation(node: ast.stmt) -> bool:
    """Tells bare strings (docstrings, also those of attributes) and the assignment of the version."""
    if isinstance(node, ast.Assign):
        return [_name_of(target) for target in node.targets] == ["__version__"]
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _data_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.endswith("~") or path.name == "__pycache__":
            continue
        if path.is_dir() and not (path / "__init__.py").is_file():
            yield from _data_files(path)
        elif path.is_file() and path.suffix not in (".py", ".pyc"):
            yield path


def _bytes_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
