"""A digest of the library code that a script reaches through imports.

Snakemake reruns a rule when its script changes, not when a module that the script imports changes;
rules therefore carry this digest as a parameter. Comments, docstrings, descriptions of configuration
keys, line numbers and the version number do not enter, so that editing them reruns nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glomflow.errors import GlomflowError

PACKAGE = "glomflow"

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class _Source:
    """What a file contributes: its digest, and the names that it imports with their lines."""

    digest: str
    imports: tuple[tuple[str, bool, int], ...]


def code_digest(script: Path, src: Path) -> str:
    """Returns the SHA-256 of all library modules and package data that a script reaches.

    Imports are followed wherever they stand, also inside functions. Files of a package that are no
    modules, such as the report's templates, count when a module of the package is reached.

    Args:
        script: The script; its own text does not enter, since Snakemake watches it.
        src: Folder that holds the package.

    Raises:
        GlomflowError: A file cannot be parsed, or imports a module of the package that does not exist.
    """
    digest = hashlib.sha256()
    packages = set()
    for module, path in sorted(_reached(script, src).items()):
        digest.update(f"{module}\0{_read(path, module).digest}\0".encode())
        packages.add(path.parent)
    for folder in sorted(packages):
        for path in _data_files(folder):
            digest.update(f"{path.relative_to(src).as_posix()}\0{_bytes_digest(path)}\0".encode())
    return digest.hexdigest()


def reached_modules(script: Path, src: Path) -> list[str]:
    """Returns the dotted names of all library modules that a script reaches, sorted.

    Args:
        script: The script.
        src: Folder that holds the package.

    Raises:
        GlomflowError: A file cannot be parsed, or imports a module of the package that does not exist.
    """
    return sorted(_reached(script, src))


def _reached(script: Path, src: Path) -> dict[str, Path]:
    reached: dict[str, Path] = {}
    waiting = list(_imported(script, "", src))
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        path = _module_path(module, src)
        if path is None:
            continue
        reached[module] = path
        waiting += _imported(path, module, src)
    return reached


def _module_path(module: str, src: Path) -> Path | None:
    base = src.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_name(base.name + ".py")):
        if path.is_file():
            return path
    # A folder without __init__.py is a namespace package: it has no code of its own.
    return None


def _imported(path: Path, module: str, src: Path) -> Iterator[str]:
    for name, certain, line in _read(path, module).imports:
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            yield ".".join(parts[:depth])
        if certain and _module_path(name, src) is None and not src.joinpath(*parts).is_dir():
            raise GlomflowError(f"{path}, line {line}: imports '{name}', which is not in {src}; correct it")


def _read(path: Path, module: str) -> _Source:
    found = path.stat()
    return _parse(path, module, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=4096)
def _parse(path: Path, module: str, _modified: int, _size: int) -> _Source:
    data = path.read_bytes()
    try:
        tree = ast.parse(data, filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else str(path)
        raise GlomflowError(f"{where}: cannot be parsed ({error}); correct the file") from error
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imports = tuple(_static_imports(tree.body, package))
    if b"import_module" in data:
        imports += tuple(_dynamic_imports(tree))
    return _Source(hashlib.sha256(repr(_bare(tree)).encode()).hexdigest(), imports)


def _static_imports(body: list[ast.stmt], package: str) -> Iterator[tuple[str, bool, int]]:
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


def _dynamic_imports(tree: ast.Module) -> Iterator[tuple[str, bool, int]]:
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
