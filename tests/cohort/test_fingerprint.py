"""The fingerprint of a shard's files."""

import os
from pathlib import Path

import pandas as pd
import pytest

from glomflow.cohort.fingerprint import shard_fingerprint
from glomflow.tables import IMAGES, write_table


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    row = dict.fromkeys(IMAGES) | {"image": "a", "patient": "p", "path": "a.tif", "annotation": "a.geojson"}
    frame = pd.DataFrame([row | {"row": 2, "shard": 0, "um_per_px": 1.0, "nm_per_px": float("nan")}])
    write_table(tmp_path / "shard.parquet", frame, IMAGES)
    (tmp_path / "a.tif").write_bytes(b"image")
    (tmp_path / "a.geojson").write_bytes(b"outlines")
    return tmp_path / "shard.parquet"


def test_a_table_to_come_is_pending(tmp_path: Path) -> None:
    assert shard_fingerprint(tmp_path / "none.parquet", tmp_path) == "pending"


@pytest.mark.parametrize("name", ["a.tif", "a.geojson"])
def test_it_changes_with_size_time_and_presence(shard: Path, name: str) -> None:
    seen = [shard_fingerprint(shard, shard.parent)]
    assert shard_fingerprint(shard, shard.parent) == seen[0]
    file = shard.parent / name
    file.write_bytes(b"longer than before")
    seen.append(shard_fingerprint(shard, shard.parent))
    os.utime(file, ns=(1, 1))
    seen.append(shard_fingerprint(shard, shard.parent))
    file.unlink()
    seen.append(shard_fingerprint(shard, shard.parent))
    assert len(set(seen)) == 4
