"""The digest of the code that a script reaches."""

import json
from pathlib import Path

import pytest

from glomflow import code_digest as code_digest_module
from glomflow.code_digest import Library
from glomflow.errors import GlomflowError

LIBRARY = {
    "__init__.py": '"""Package."""\n__version__ = "1"\n',
    "errors.py": "class E(Exception):\n    pass\n",
    "imaging/__init__.py": "",
    "imaging/stain.py": "from glomflow.errors import E\n\ndef f(x):\n    '''Doc.'''\n    # why\n"
    "    return x + 1\n",
    "imaging/readers/__init__.py": "from .tiff import read\n",
    "imaging/readers/tiff.py": "from ...errors import E\nfrom .. import stain\n\ndef read():\n    return 1\n",
    "models/__init__.py": "",
    "models/loss.py": "WEIGHT = 0.3\n",
    "report/__init__.py": "",
    "report/page.py": "TITLE = 'x'\n",
    "report/templates/page.html.j2": "<html>",
    "config.py": "from pydantic import Field\nN = Field(5, ge=2, description='Folds.')\n",
}
ROOT = ["glomflow"]


@pytest.fixture
def src(tmp_path) -> Path:
    for name, text in LIBRARY.items():
        path = tmp_path / "src" / "glomflow" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "src"


def code_digest(path: Path, src: Path) -> str:
    return Library(src).digest(path)


def script(src: Path, text: str) -> Path:
    path = src.parent / "script.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import numpy\n", []),
        ("import glomflow\n", ROOT),
        ("import glomflow.models.loss as z\n", [*ROOT, "glomflow.models", "glomflow.models.loss"]),
        ("from glomflow.models import loss\n", [*ROOT, "glomflow.models", "glomflow.models.loss"]),
        ("from glomflow.models.loss import WEIGHT\n", [*ROOT, "glomflow.models", "glomflow.models.loss"]),
        ("from glomflow.models import nothing\n", [*ROOT, "glomflow.models"]),
        ("from glomflow.models.loss import *\n", [*ROOT, "glomflow.models", "glomflow.models.loss"]),
        (
            "from glomflow.imaging.readers import read\n",
            [
                *ROOT,
                "glomflow.errors",
                "glomflow.imaging",
                "glomflow.imaging.readers",
                "glomflow.imaging.readers.tiff",
                "glomflow.imaging.stain",
            ],
        ),
        ("def f():\n    def g():\n        from glomflow import errors\n", [*ROOT, "glomflow.errors"]),
        ("try:\n    pass\nexcept ValueError:\n    import glomflow.errors\n", [*ROOT, "glomflow.errors"]),
        ("match 1:\n    case 1:\n        import glomflow.errors\n", [*ROOT, "glomflow.errors"]),
        ("for i in []:\n    pass\nelse:\n    import glomflow.errors\n", [*ROOT, "glomflow.errors"]),
        ("class A:\n    with f():\n        import glomflow.errors\n", [*ROOT, "glomflow.errors"]),
        ("importlib.import_module('glomflow.errors')\n", [*ROOT, "glomflow.errors"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import glomflow.errors\n", []),
        (
            "import typing\nif typing.TYPE_CHECKING:\n    pass\nelse:\n    import glomflow.errors\n",
            [*ROOT, "glomflow.errors"],
        ),
        ("import glomflowing.x\n", []),
    ],
)
def test_reached_modules(src, text, expected):
    assert Library(src).reached(script(src, text)) == expected


def edit(src: Path, name: str, old: str, new: str) -> None:
    path = src / "glomflow" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


STAIN_AND_CONFIG = "from glomflow.imaging import stain\nimport glomflow.config\n"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("imaging/stain.py", "# why", "# because of this\n    # and that"),
        ("imaging/stain.py", "'''Doc.'''", "'''Another doc.'''"),
        ("imaging/stain.py", "x + 1", "(x  +  1)"),
        ("imaging/stain.py", "def f", "\n\n\ndef f"),
        ("__init__.py", '"1"', '"2"'),
        ("config.py", "'Folds.'", "'Outer folds.'"),
        ("models/loss.py", "0.3", "0.4"),
        ("report/templates/page.html.j2", "<html>", "<body>"),
        ("imaging/readers/tiff.py", "return 1", "return 2"),
    ],
)
def test_edits_that_rerun_nothing(src, name, old, new):
    path = script(src, STAIN_AND_CONFIG)
    before = code_digest(path, src)
    edit(src, name, old, new)
    assert code_digest(path, src) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("imaging/stain.py", "x + 1", "x + 2"),
        ("imaging/stain.py", "x + 1", "x + 1.0"),
        ("imaging/stain.py", "def f", "@cache\ndef f"),
        ("errors.py", "pass", "code = 1"),
        ("config.py", "ge=2", "ge=3"),
        ("config.py", "Field(5", "Field(6"),
        (
            "imaging/stain.py",
            "from glomflow.errors",
            "from glomflow.models.loss import WEIGHT\nfrom glomflow.errors",
        ),
    ],
)
def test_edits_that_rerun(src, name, old, new):
    path = script(src, STAIN_AND_CONFIG)
    before = code_digest(path, src)
    edit(src, name, old, new)
    assert code_digest(path, src) != before


def test_package_data_counts_where_its_package_is_reached(src):
    path = script(src, "def main():\n    from glomflow.report.page import TITLE\n")
    before = code_digest(path, src)
    for name in (".page.html.j2.swp", "page.html.j2~"):
        (src / "glomflow/report/templates" / name).write_text("editor's")
    assert code_digest(path, src) == before
    edit(src, "report/templates/page.html.j2", "<html>", "<body>")
    changed = code_digest(path, src)
    assert changed != before
    (src / "glomflow/report/templates/style.css").write_text("")
    assert code_digest(path, src) != changed


def test_the_script_itself_and_the_place_do_not_count(src, tmp_path):
    before = code_digest(script(src, STAIN_AND_CONFIG), src)
    assert code_digest(script(src, STAIN_AND_CONFIG + "print(1)\n"), src) == before
    moved = tmp_path / "moved"
    src.rename(moved)
    assert code_digest(tmp_path / "script.py", moved) == before


def test_errors_name_the_file(src):
    edit(src, "imaging/stain.py", "x + 1", "x +")
    with pytest.raises(GlomflowError, match=r"stain\.py, line 6: cannot be parsed .*; correct the file"):
        code_digest(script(src, STAIN_AND_CONFIG), src)
    with pytest.raises(
        GlomflowError, match=r"script\.py, line 2: imports 'glomflow\.nothing', which is not in "
    ):
        code_digest(script(src, "import os\nimport glomflow.nothing\n"), src)


def test_a_namespace_folder_is_passed_through(src):
    (src / "glomflow" / "extra").mkdir()
    (src / "glomflow" / "extra" / "a.py").write_text("import glomflow.errors\n")
    found = Library(src).reached(script(src, "from glomflow.extra import a\n"))
    assert found == [*ROOT, "glomflow.errors", "glomflow.extra.a"]
    assert len(code_digest(script(src, "from glomflow.extra import a\n"), src)) == 64


def test_the_library_of_the_project(repo):
    src = repo / "src"
    library = Library(src)
    found = library.reached(src / "glomflow" / "cohort" / "sheets.py")
    assert {"glomflow.errors", "glomflow.tables", "glomflow.cohort.disk"} <= set(found)
    assert not [name for name in found if name.startswith("glomflow.imaging")]
    modules = sorted((src / "glomflow").rglob("*.py"))[::20]
    # What one script has reached changes nothing for the next.
    assert [library.digest(module) for module in modules] == [code_digest(module, src) for module in modules]


@pytest.fixture
def parsed(monkeypatch) -> list[str]:
    """Names of the files that are parsed from here on."""
    names: list[str] = []
    parse = code_digest_module._parse

    def noted(path: Path, package: str, data: bytes):
        names.append(path.name)
        return parse(path, package, data)

    monkeypatch.setattr(code_digest_module, "_parse", noted)
    return names


def kept(src: Path) -> str:
    """The digest of a new process that keeps what it parsed."""
    library = Library(src, src.parent / ".snakemake" / "code.json")
    digest = library.digest(script(src, STAIN_AND_CONFIG))
    library.save()
    return digest


def test_what_was_parsed_is_not_parsed_again(src, parsed):
    first = kept(src)
    assert first == code_digest(src.parent / "script.py", src)
    parsed.clear()
    assert kept(src) == first
    assert parsed == []
    edit(src, "imaging/stain.py", "x + 1", "x + 2")
    changed = kept(src)
    assert changed != first
    assert parsed == ["stain.py"]
    edit(src, "imaging/stain.py", "x + 2", "x + 1")
    assert kept(src) == first


def test_relative_imports_count_from_where_a_file_lies(src, parsed):
    """Files of the same text in two packages import different modules."""
    for name in ("models", "imaging"):
        (src / "glomflow" / name / "same.py").write_text("from . import stain\n")
    (src / "glomflow" / "models" / "stain.py").write_text("")
    text = "from glomflow.models import same\nfrom glomflow.imaging import same\n"
    store = src.parent / "code.json"
    for _ in range(2):
        library = Library(src, store)
        found = library.reached(script(src, text))
        library.save()
        assert {"glomflow.models.stain", "glomflow.imaging.stain"} <= set(found)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"algorithm": "1"}', '{"algorithm": 1, "sources": {"a": 2}}']
)
def test_a_damaged_store_is_written_anew(src, parsed, text):
    store = src.parent / ".snakemake" / "code.json"
    first = kept(src)
    content = json.loads(store.read_text())
    store.write_text(text)
    assert kept(src) == first
    assert json.loads(store.read_text()) == content
    store.write_text(json.dumps({**content, "sources": {"a": 2}}))
    assert kept(src) == first
    # Another grammar or another version of the algorithm.
    wrong = {key: ["0", []] for key in content["sources"]}
    store.write_text(json.dumps({"algorithm": "other", "sources": wrong}))
    assert kept(src) == first


def test_a_store_that_cannot_be_written_changes_nothing(src):
    (src.parent / ".snakemake").write_text("a file where the folder should be")
    assert kept(src) == code_digest(src.parent / "script.py", src)
