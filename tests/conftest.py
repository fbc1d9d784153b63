"""Fixtures that all tests share."""

from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"


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
