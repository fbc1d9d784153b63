"""The finder's jobs: what it learns from, who searches what, and what is written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glomflow.errors import GlomflowError
from glomflow.imaging.annotations import read_outlines, write_geojson
from glomflow.imaging.found import found_outlines
from glomflow.tables import FINDER_IMAGES, FOUND, IMAGES, INVENTORY, SEARCHED, read_table, write_table
from glomflow.training.finder_shard import (
    deal_fields,
    fields_of,
    find_shard,
    finder_images,
    geojson_name,
    training_table,
)
from training.finder_synthetic import Violet, circle, draw, settings

BLANK = {"string": "", "int64": 0, "float64": np.nan}
DISC = (40.0, 50.0, 20.0)


def tables(folder: Path, rows: list[dict[str, object]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """IMAGES and INVENTORY of OM fields with one disc each; ``rows`` change single values."""
    images, inventory = [], []
    for number, changes in enumerate(rows):
        row = {"image": f"i{number}", "patient": f"p{number}", "slide": f"s{number}", "modality": "OM"}
        row |= {"path": f"i{number}.png", "kind": "field", "annotation": f"i{number}.geojson"}
        row |= {"status": "ok", "um_per_px": 2.0, "width": 110, "height": 100, **changes}
        Image.fromarray(draw(110, 100, [DISC])).save(folder / str(row["path"]))
        write_geojson(folder / f"i{number}.geojson", [circle(*DISC)])
        images.append({c: row.get(c, BLANK[spec.dtype]) for c, spec in IMAGES.items()})
        inventory.append({c: row.get(c, BLANK[spec.dtype]) for c, spec in INVENTORY.items()})
    return pd.DataFrame(images), pd.DataFrame(inventory)


def test_fields_are_sorted_by_whether_they_have_outlines(tmp_path: Path) -> None:
    changes = [{}, {"annotation": ""}, {"kind": "crop"}, {"modality": "IM"}, {"status": "unreadable"}]
    images, inventory = tables(tmp_path, changes)
    assert finder_images(inventory, images, annotated=True)["image"].tolist() == ["i0"]
    assert finder_images(inventory, images, annotated=False)["image"].tolist() == ["i1"]


def test_missing_annotations_may_be_missing_values(tmp_path: Path) -> None:
    images, inventory = tables(tmp_path, [{"annotation": None}])
    write_table(tmp_path / "images.parquet", images, IMAGES)
    images = read_table(tmp_path / "images.parquet", IMAGES)
    assert finder_images(inventory, images, annotated=False)["image"].tolist() == ["i0"]


def test_training_sees_no_test_field(tmp_path: Path) -> None:
    images, inventory = tables(tmp_path, [{}] * 6)
    fields = finder_images(inventory, images, annotated=True)
    folds = deal_fields(fields, settings(n_splits=3), 1)
    for fold in "012":
        tested = set(folds.loc[(folds["fold"] == fold) & (folds["split"] == "test"), "image"])
        table = training_table(fields, folds, fold)
        assert len(tested) == 2
        assert set(table["image"]) == set(fields["image"]) - tested
        assert set(table["split"]) == {"train", "validation"}
    assert set(training_table(fields, folds, "all")["image"]) == set(fields["image"])


def test_without_outlines_there_is_nothing_to_learn_from() -> None:
    empty = pd.DataFrame({column: [] for column in FINDER_IMAGES})
    message = "imaging.finder.enabled: no OM image of kind 'field' has outlines"
    with pytest.raises(GlomflowError, match=re.escape(message)):
        deal_fields(empty, settings(), 1)
    assert deal_fields(empty, settings(model="file:m.pt", sha256="0"), 1).empty


def test_fields_are_read_with_their_outlines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, inventory = tables(tmp_path, [{}, {}, {}])
    table = finder_images(inventory, images, annotated=True).assign(split=["train", "validation", "train"])
    (tmp_path / "i2.geojson").write_text("nothing")
    (field,) = fields_of(table, tmp_path, "train")
    assert (field.image, field.source, field.um_per_px) == ("i0", tmp_path / "i0.png", 2.0)
    np.testing.assert_allclose(field.outlines[0].polygon, circle(*DISC).polygon)
    assert "finder: image 'i2' is left out: " in capsys.readouterr().out


def test_each_field_is_searched_by_the_finder_that_has_not_seen_it(tmp_path: Path) -> None:
    images, inventory = tables(tmp_path, [{}, {}, {"annotation": ""}, {"annotation": "", "path": "b.png"}])
    (tmp_path / "b.png").write_bytes(b"broken")
    folds = pd.DataFrame(
        {
            "fold": ["0", "0", "1", "1", "all", "all"],
            "image": ["i0", "i1"] * 3,
            "split": ["test", "train", "train", "test", "train", "train"],
        }
    )
    loaded: list[str] = []

    def load(fold: str) -> Violet:
        loaded.append(fold)
        return Violet()

    out = tmp_path / "outlines"
    searched, found = find_shard(inventory, images, folds, tmp_path, settings(), load, out)
    assert loaded == ["0", "1", "all"]
    assert searched[["image", "fold", "glomeruli"]].to_numpy().tolist() == [
        ["i0", "0", 1],
        ["i1", "1", 1],
        ["i2", "all", 1],
        ["i3", "all", 0],
    ]
    assert searched["reason"].ne("").tolist() == [False, False, False, True]
    assert found["glomerulus"].tolist() == ["i0#0", "i1#0", "i2#0"]
    row = found.iloc[2]
    assert row[["x", "y", "width", "height"]].tolist() == pytest.approx([20, 30, 40, 40], abs=1)
    assert (row["score"], row["at_border"]) == (pytest.approx(0.8, abs=0.01), False)
    for name, frame, schema in (("s", searched, SEARCHED), ("f", found, FOUND)):
        write_table(tmp_path / f"{name}.parquet", frame, schema)
    (given,) = found_outlines(read_table(tmp_path / "f.parquet", FOUND))["i2"]
    (written,) = read_outlines(out / "i2.geojson", image_size=(110, 100))
    np.testing.assert_allclose(given.polygon, written.polygon, atol=0.01)
    assert given.name == written.name == "i2#0"
    assert found_outlines(found, searched["image"])["i3"] == []
    assert (out / "i3.geojson").is_file()


def test_a_shard_without_fields_needs_no_finder(tmp_path: Path) -> None:
    images, inventory = tables(tmp_path, [{"modality": "TEM"}])
    folds = pd.DataFrame({"fold": [], "image": [], "split": []}, dtype="str")

    def load(fold: str) -> Violet:
        raise AssertionError(fold)

    searched, found = find_shard(inventory, images, folds, tmp_path, settings(), load, tmp_path / "o")
    assert (len(searched), len(found)) == (0, 0)
    write_table(tmp_path / "s.parquet", searched, SEARCHED)
    write_table(tmp_path / "f.parquet", found, FOUND)


def test_a_long_identifier_gives_a_short_file_name() -> None:
    assert geojson_name("patient 1") == "patient 1.geojson"
    assert len(geojson_name("ö" * 150)) == 64 + len(".geojson")
