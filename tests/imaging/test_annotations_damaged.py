"""Damaged files of every format: outlines or a reason, never another exception."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from roifile import ImagejRoi

from glomflow.errors import ImageError
from glomflow.imaging.annotations import Outline, read_outlines, write_geojson

SIZE = (60, 40)
SQUARE = [[10, 10], [30, 10], [30, 30], [10, 30]]
ROUNDS = 150


def geojson(path: Path) -> None:
    write_geojson(path, [Outline(np.array(SQUARE, float), "normal", "g")], measurements=[{"score": 0.5}])


def coco(path: Path) -> None:
    annotations = [
        {"image_id": 1, "category_id": 1, "segmentation": [[10, 10, 30, 10, 30, 30]], "bbox": [1, 2, 3, 4]},
        {"image_id": 1, "category_id": 1, "segmentation": {"size": [40, 60], "counts": [410, 20, 1970]}},
        {"image_id": 1, "bbox": [1, 2, 3, 4]},
    ]
    images = [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}]
    categories = [{"id": 1, "name": "normal"}]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))


def labelme(path: Path) -> None:
    shapes = [
        {"label": "a", "points": SQUARE, "shape_type": "polygon"},
        {"label": "a", "points": SQUARE[:2], "shape_type": "circle"},
        {"label": "a", "points": SQUARE[::2], "shape_type": "rectangle"},
    ]
    path.write_text(json.dumps({"shapes": shapes, "imageWidth": 60, "imageHeight": 40}))


def cvat(path: Path) -> None:
    path.write_text(
        '<annotations><image name="a.png" width="60" height="40"><polygon label="a" points="1,1;9,1;9,9"/>'
        '<box xtl="1" ytl="1" xbr="9" ybr="9" rotation="4"/><ellipse cx="9" cy="9" rx="4" ry="3"/>'
        '<mask rle="1,2,1" left="3" top="4" width="2" height="2"/></image></annotations>'
    )


def region(path: Path) -> None:
    path.write_bytes(ImagejRoi.frompoints(np.array(SQUARE) + 0.5, name="g").tobytes())


def regions(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.roi", ImagejRoi.frompoints(SQUARE, name="g").tobytes())


def png(path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(labels()).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


def tiff(path: Path) -> None:
    tifffile.imwrite(path, labels())


def labels() -> np.ndarray:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 10:30] = 1
    mask[10:30, 40:50] = 2
    return mask


def boxes(path: Path) -> None:
    path.write_text("image,x,y,width,height,lesion\na.png,1,2,10,12.5,normal\na.png,20,20,9,9,\n")


WRITERS = {
    "a.geojson": geojson,
    "coco.json": coco,
    "labelme.json": labelme,
    "a.xml": cvat,
    "a.roi": region,
    "a.zip": regions,
    "a.png": png,
    "a.tif": tiff,
    "a.csv": boxes,
}


def outcome(path: Path) -> str:
    try:
        outlines = read_outlines(path, image_size=SIZE, image_name="a.png")
    except ImageError as error:
        refusal = error
        outlines = None
    if outlines is None:
        assert refusal.status in ("no_annotation", "unreadable")
        assert path.name in refusal.reason
        return "refused"
    assert outlines
    for outline in outlines:
        assert outline.polygon.shape[1] == 2
        assert len(outline.polygon) >= 3
        assert np.isfinite(outline.polygon).all()
    return "read"


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_give_outlines_or_a_reason(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    assert outcome(path) == "read"
    generator = np.random.default_rng(7)
    outcomes = set()
    for number in range(ROUNDS):
        content = bytearray(whole)
        if number % 3 == 0:
            content = content[: generator.integers(0, len(whole))]
        else:
            for _ in range(generator.integers(1, 6)):
                at = generator.integers(0, len(content))
                content[at] = generator.integers(32, 127) if number % 3 == 1 else generator.integers(0, 256)
        path.write_bytes(bytes(content))
        outcomes.add(outcome(path))
    assert "refused" in outcomes


VALUES = (None, True, -1, 0, 1e308, float("nan"), 10**400, "x", [], {}, [[]], [1], [[1, 2]], [["a", "b"]])


def places(document: object, trail: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    found = [trail] if trail else []
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in pairs:
        found += places(value, (*trail, key)) if isinstance(value, dict | list) else [(*trail, key)]
    return found


@pytest.mark.parametrize("name", ["a.geojson", "coco.json", "labelme.json"])
def test_any_value_may_be_any_other(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_text()
    for trail in places(json.loads(whole)):
        for value in VALUES:
            document = json.loads(whole)
            holder = document
            for key in trail[:-1]:
                holder = holder[key]
            holder[trail[-1]] = value
            path.write_text(json.dumps(document))
            outcome(path)
