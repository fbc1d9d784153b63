"""GeoJSON out: what QuPath opens, and what is read back."""

import json
import uuid

import numpy as np
import pytest
from PIL import Image

from glomflow.errors import GlomflowError, ImageError
from glomflow.imaging.annotations import Outline, convert_annotations, read_outlines, write_geojson

SQUARE = np.array([[10.5, 20.0], [50.0, 20.0], [50.0, 60.1], [10.5, 60.1]])


def same(first, second):
    return (
        np.array_equal(first.polygon, second.polygon)
        and first.lesion == second.lesion
        and first.name == second.name
        and first.is_box == second.is_box
    )


def test_the_document(tmp_path):
    path = tmp_path / "a.geojson"
    write_geojson(
        path,
        [Outline(SQUARE, "crescentic", "g1"), Outline(SQUARE, is_box=True)],
        measurements=[{"score": 0.5}, {}],
    )
    document = json.loads(path.read_text())
    assert document["type"] == "FeatureCollection"
    first, second = document["features"]
    assert first["type"] == "Feature"
    assert first["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[10.5, 20.0], [50.0, 20.0], [50.0, 60.1], [10.5, 60.1], [10.5, 20.0]]],
    }
    colour = first["properties"]["classification"].pop("color")
    assert len(colour) == 3
    assert all(0 <= value <= 255 for value in colour)
    assert first["properties"] == {
        "objectType": "annotation",
        "name": "g1",
        "classification": {"name": "crescentic"},
        "measurements": {"score": 0.5},
    }
    # QuPath reads a property as text or not at all: null would stop the import.
    assert second["properties"] == {
        "objectType": "annotation",
        "color": [255, 0, 0],
        "metadata": {"shape": "box"},
    }


def test_identifiers_are_unique_and_the_same_every_time(tmp_path):
    outlines = [Outline(SQUARE), Outline(SQUARE), Outline(SQUARE + 1, "a")]
    documents = []
    for name in ("a.geojson", "b.geojson"):
        write_geojson(tmp_path / name, outlines)
        documents.append((tmp_path / name).read_bytes())
    assert documents[0] == documents[1]
    identifiers = [uuid.UUID(feature["id"]) for feature in json.loads(documents[0])["features"]]
    assert len(set(identifiers)) == 3
    assert {identifier.version for identifier in identifiers} == {5}


def test_a_round_trip_is_exact(tmp_path):
    generator = np.random.default_rng(3)
    outlines = []
    for number in range(200):
        angle = np.sort(generator.uniform(0, 2 * np.pi, generator.integers(5, 60)))
        radius = generator.uniform(50, 150, angle.size)
        centre = generator.uniform(0, 60_000, 2)
        points = centre + np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        lesion = [None, "normal", "Glomérulo: scleröse; 硬化"][number % 3]
        outlines.append(Outline(points, lesion, f"g {number}" if number % 2 else None, number % 5 == 0))
    path = tmp_path / "a.geojson"
    write_geojson(path, outlines)
    read = read_outlines(path, image_size=(60_000, 60_000))
    assert len(read) == 200
    assert all(same(*pair) for pair in zip(outlines, read, strict=True))


def test_nothing_found_is_an_empty_collection(tmp_path):
    write_geojson(tmp_path / "a.geojson", [])
    assert json.loads((tmp_path / "a.geojson").read_text()) == {"type": "FeatureCollection", "features": []}
    with pytest.raises(ImageError, match="holds no Polygon or MultiPolygon among its 0 features"):
        read_outlines(tmp_path / "a.geojson", image_size=(10, 10))


def test_what_json_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "a.geojson"
    with pytest.raises(GlomflowError, match=r"a\.geojson, outline 1: a coordinate is not finite"):
        write_geojson(path, [Outline(SQUARE * np.nan)])
    with pytest.raises(GlomflowError, match="outline 1: the measurement 'score' is not finite; leave it out"):
        write_geojson(path, [Outline(SQUARE)], measurements=[{"score": float("nan")}])
    with pytest.raises(ValueError, match="0 sets of measurements for 1 outlines"):
        write_geojson(path, [Outline(SQUARE)], measurements=[])
    assert not path.exists()


def test_conversion(tmp_path):
    Image.new("RGB", (200, 100), (9, 9, 9)).save(tmp_path / "a.png")
    boxes = "image,x,y,width,height,lesion\nb.png,1,1,5,5,\na.png,10,20,40,40,normal\na.png,100,20,40,40,\n"
    (tmp_path / "boxes.csv").write_text(boxes)
    out = tmp_path / "out" / "a.geojson"
    out.parent.mkdir()
    line = convert_annotations(tmp_path / "boxes.csv", tmp_path / "a.png", out)
    assert line == f"wrote 2 outlines, 2 of them boxes to {out}"
    outlines = read_outlines(out, image_size=(200, 100))
    assert [outline.box for outline in outlines] == [(10, 20, 50, 60), (100, 20, 140, 60)]
    assert [outline.lesion for outline in outlines] == ["normal", None]
    assert [outline.is_box for outline in outlines] == [True, True]


def test_conversion_of_an_image_that_is_not_there(tmp_path):
    with pytest.raises(ImageError, match=r"none\.png"):
        convert_annotations(tmp_path / "boxes.csv", tmp_path / "none.png", tmp_path / "a.geojson")
    assert list(tmp_path.iterdir()) == []
