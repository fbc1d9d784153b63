"""Fixtures that all tests share."""

from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the workflow's tests first, the longest file before the others: the rest fills the gaps.

    One file runs in one process (``--dist loadfile``), so that what its tests share is made once.
    """
    slow = ("test_slurm", "test_protocols", "test_demo", "test_finder")

    def rank(item: pytest.Item) -> int:
        if item.get_closest_marker("workflow") is None:
            return len(slow) + 1
        return slow.index(item.path.stem) if item.path.stem in slow else len(slow)

    items.sort(key=rank)


def _folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        pytest.skip(f"{what} are not here: no folder {path}")
    return path


@pytest.fixture(scope="session")
def repo() -> Path:
    """The project's folder."""
    return REPO


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real renal images, kept outside the project."""
    return _folder(SHARED / "data" / "real", "the real renal images")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the published arithmetic's expected values, kept outside the project."""
    return _folder(SHARED / "golden", "the golden values")
