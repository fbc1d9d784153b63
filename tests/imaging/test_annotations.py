import json
import math

import numpy as np
import pytest
import tifffile
from PIL import Image

from glomflow.errors import ImageError
from glomflow.imaging.annotations import (
    Outline,
    polygon_mask,
    read_outlines,
    share_inside,
    verify_annotation,
)

SIZE = (200, 100)
SQUARE = [[10, 20], [50, 20], [50, 60], [10, 60], [10, 20]]
OTHER = [[100, 20], [140, 20], [140, 60], [100, 60], [100, 20]]


def feature(coordinates=None, kind="Polygon", **properties):
    geometry = {"type": kind, "coordinates": [SQUARE] if coordinates is None else coordinates}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def write(tmp_path, document, name="a.geojson"):
    path = tmp_path / name
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def mask_file(tmp_path, mask, name="mask.png"):
    path = tmp_path / name
    if path.suffix == ".png":
        Image.fromarray(mask).save(path)
    else:
        tifffile.imwrite(path, mask)
    return path


def boxes(outlines):
    return [tuple(round(edge, 6) for edge in outline.box) for outline in outlines]


@pytest.mark.parametrize(
    "document",
    [
        {"type": "FeatureCollection", "features": [feature()]},
        [feature()],
        feature(),
    ],
    ids=["collection", "list", "single"],
)
@pytest.mark.parametrize("suffix", ["geojson", "json", "txt"])
def test_geojson_in_its_three_forms(tmp_path, document, suffix):
    outlines = read_outlines(write(tmp_path, document, f"a.{suffix}"), image_size=SIZE)
    assert boxes(outlines) == [(10, 20, 50, 60)]
    assert outlines[0].polygon.tolist() == SQUARE[:-1]


@pytest.mark.parametrize(
    ("properties", "lesion", "name"),
    [
        ({"classification": {"name": "crescentic", "color": [1, 2, 3]}}, "crescentic", None),
        ({"classification": {"names": ["Glomerulus", "normal"]}}, "Glomerulus: normal", None),
        ({"classification": "normal", "name": "g1"}, "normal", "g1"),
        ({"classification": {"name": "Glomerulus"}, "lesion": "normal"}, "normal", None),
        ({"classification": None, "name": "g1"}, None, "g1"),
        ({"lesion": ""}, None, None),
        ({}, None, None),
        (None, None, None),
    ],
)
def test_lesion_and_name(tmp_path, properties, lesion, name):
    document = feature()
    document["properties"] = properties
    (outline,) = read_outlines(write(tmp_path, document), image_size=SIZE)
    assert (outline.lesion, outline.name) == (lesion, name)


def test_multipolygons_holes_specks_and_other_geometries(tmp_path):
    hole = [[20, 30], [30, 30], [30, 40], [20, 30]]
    speck = [[150, 50], [151, 50], [151, 51], [150, 50]]
    document = {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "geometry": None, "properties": {}},
            feature([1, 2], kind="Point"),
            feature([SQUARE, hole], lesion="a"),
            feature([[SQUARE], [OTHER], [speck]], kind="MultiPolygon", lesion="b"),
        ],
    }
    outlines = read_outlines(write(tmp_path, document), image_size=SIZE)
    assert [outline.lesion for outline in outlines] == ["a", "b", "b"]
    assert boxes(outlines) == [(10, 20, 50, 60), (10, 20, 50, 60), (100, 20, 140, 60)]


def test_an_outline_may_reach_beyond_the_image(tmp_path):
    path = write(tmp_path, feature([[[-20, 20], [30, 20], [30, 60], [-20, 60]]]))
    (outline,) = read_outlines(path, image_size=SIZE)
    assert outline.box == (-20, 20, 30, 60)
    assert share_inside(outline, SIZE) == pytest.approx(0.6)
    verify_annotation(path, SIZE)


@pytest.mark.parametrize(
    ("document", "status", "reason"),
    [
        ("{not json", "unreadable", "a.geojson' is not GeoJSON .*; export it again"),
        ('"text"', "unreadable", r"is JSON, but neither GeoJSON \(a FeatureCollection, .*\) nor COCO nor"),
        ({"type": "FeatureCollection"}, "unreadable", "is a FeatureCollection without a list of features"),
        ([feature(), {"type": "x"}], "unreadable", "a.geojson', feature 2: it is no GeoJSON Feature"),
        ([], "no_annotation", "holds no Polygon or MultiPolygon among its 0 features; outline at least"),
        (
            [feature([1, 2], kind="Point")],
            "no_annotation",
            "holds no Polygon or MultiPolygon among its 1 feat",
        ),
        (
            [feature(), feature([SQUARE[:2]])],
            "no_annotation",
            "feature 2: the polygon has 2 points and needs",
        ),
        ([feature([])], "no_annotation", "feature 1: the polygon has 0 points and needs 3 different ones"),
        ([feature([], kind="MultiPolygon")], "no_annotation", "feature 1: the MultiPolygon has no coord"),
        ([feature([[[0, 0], [5, 5], [9, 9]]])], "no_annotation", "feature 1: the polygon has no area; draw"),
        (
            [feature([[[0, 0], [math.nan, 5], [9, 0]]])],
            "unreadable",
            "feature 1: a coordinate of the polygon is NaN or infinite; draw it again",
        ),
        (
            [feature([[[0, 0], ["x", 5], [9, 0]]])],
            "unreadable",
            "feature 1: a point of the polygon is no pair",
        ),
        ([feature([[[0, 0], [5], [9, 0]]])], "unreadable", "feature 1: a point of the polygon is no pair"),
        (
            [feature(), feature([[[300, 0], [310, 0], [310, 9]]])],
            "no_annotation",
            "outline 2: it lies at x 300 to 310, y 0 to 9, outside the image of 200 x 100 px; export it in",
        ),
    ],
)
def test_damaged_geojson(tmp_path, document, status, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        verify_annotation(write(tmp_path, document), SIZE)
    assert caught.value.status == status
    assert "a.geojson" in caught.value.reason


@pytest.mark.parametrize(
    ("name", "content", "status", "reason"),
    [
        (
            "absent.geojson",
            None,
            "no_annotation",
            "absent.geojson' does not exist; correct the column 'annot",
        ),
        ("a.xml", b"<x/>", "unreadable", "a.xml' is XML, but its root is 'x' and not CVAT's 'annotations'"),
        ("a.png", b"rubbish", "unreadable", "a.png' cannot be decoded .*; save the mask again"),
        ("a.tif", b"rubbish", "unreadable", "a.tif' cannot be decoded .*; save the mask again"),
        ("a.geojson", b"\xff\xfe\x00\x01", "unreadable", "a.geojson' is not GeoJSON"),
        (
            "a.txt",
            b"hello",
            "unreadable",
            "a.txt' is of no known format; export it as GeoJSON, CVAT XML, COCO",
        ),
        ("a.bin", b"\xff\x00", "unreadable", "a.bin' is of no known format; export it as GeoJSON"),
        ("a.csv", b"x,y\xff", "unreadable", "a.csv' is not UTF-8 .*; save it as 'CSV UTF-8'"),
    ],
)
def test_files_that_are_no_annotation(tmp_path, name, content, status, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        read_outlines(path, image_size=SIZE)
    assert caught.value.status == status


# --- label masks ----------------------------------------------------------------------------------


def labels(dtype, *values):
    mask = np.zeros((100, 200), dtype)
    for index, value in enumerate(values):
        mask[20:60, 10 + 60 * index : 50 + 60 * index] = value
    return mask


@pytest.mark.parametrize("name", ["mask.png", "mask.tif"])
@pytest.mark.parametrize(
    ("mask", "names"),
    [
        (labels(np.uint8, 1, 2, 3), ["1", "2", "3"]),
        (labels(np.uint8, 100, 255, 7), ["7", "100", "255"]),
        (labels(np.uint16, 1000, 7, 8), ["7", "8", "1000"]),
        (labels(np.uint8, 1, 1, 1), [None] * 3),
        (labels(np.uint8, 255, 255, 255), [None] * 3),
        (labels(np.uint16, 65535, 65535, 65535), [None] * 3),
    ],
    ids=["labels", "labels 8 bit", "labels 16 bit", "binary 1", "binary 255", "binary 65535"],
)
def test_masks(tmp_path, mask, names, name):
    outlines = read_outlines(mask_file(tmp_path, mask, name), image_size=SIZE)
    assert [outline.name for outline in outlines] == names
    assert sorted(boxes(outlines)) == [(10, 20, 50, 60), (70, 20, 110, 60), (130, 20, 170, 60)]
    assert all(outline.lesion is None for outline in outlines)


def test_a_mask_is_scaled_to_the_image(tmp_path):
    path = mask_file(tmp_path, labels(np.uint8, 1))
    assert boxes(read_outlines(path, image_size=(400, 200))) == [(20, 40, 100, 120)]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1"])
def test_a_resized_mask_is_thresholded(tmp_path, mode):
    small = Image.fromarray(labels(np.uint8, 255, 255)).resize((90, 45), Image.Resampling.BICUBIC)
    assert len(set(small.get_flattened_data())) > 3
    small.convert(mode).save(tmp_path / "mask.png")
    outlines = read_outlines(tmp_path / "mask.png", image_size=SIZE)
    assert len(outlines) == 2
    assert outlines[0].box == pytest.approx((10, 20, 50, 60), abs=2.5)
    assert outlines[1].box == pytest.approx((70, 20, 110, 60), abs=2.5)


def test_specks_of_a_binary_mask_are_dropped_but_labels_kept(tmp_path):
    mask = labels(np.uint8, 1)
    mask[80, 180] = 1
    assert len(read_outlines(mask_file(tmp_path, mask), image_size=SIZE)) == 1
    mask[80:83, 180:183] = 2
    assert len(read_outlines(mask_file(tmp_path, mask), image_size=SIZE)) == 2


def test_a_hole_and_a_touched_edge(tmp_path):
    mask = np.zeros((100, 200), np.uint8)
    mask[:40, :40] = 1
    mask[10:20, 10:20] = 0
    (outline,) = read_outlines(mask_file(tmp_path, mask), image_size=SIZE)
    assert outline.box == (0, 0, 40, 40)


@pytest.mark.parametrize(
    ("mask", "status", "reason"),
    [
        (np.zeros((10, 20), np.uint8), "no_annotation", "is empty: every pixel is 0; outline at least one"),
        (np.ones((10, 20), np.float32), "unreadable", "is no label mask: float32 samples of shape .*; save"),
        (
            np.random.default_rng(0).integers(0, 255, (10, 20, 3), dtype=np.uint8),
            "unreadable",
            r"is no label mask: uint8 samples of shape \(10, 20, 3\); save it as one channel of integers",
        ),
        (np.full((10, 20), -1, np.int16), "unreadable", "holds negative labels; save them as 1, 2, 3"),
    ],
    ids=["empty", "float", "colour", "negative"],
)
def test_unusable_masks(tmp_path, mask, status, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        read_outlines(mask_file(tmp_path, mask, "mask.tif"), image_size=SIZE)
    assert caught.value.status == status
    assert "mask.tif" in caught.value.reason


def test_polygon_mask():
    mask = polygon_mask([np.array([[2.0, 3.0], [6.0, 3.0], [6.0, 8.0], [2.0, 8.0]])], 10)
    assert mask.shape == (10, 10)
    assert mask[3:8, 2:6].all()
    assert mask.sum() <= 30
    assert not polygon_mask([], 10).any()


def test_share_inside():
    outline = Outline(np.array([[-10.0, -10.0], [10.0, -10.0], [10.0, 10.0], [-10.0, 10.0]]))
    assert share_inside(outline, SIZE) == pytest.approx(0.25)


@pytest.mark.parametrize(("size", "fits"), [((100, 80), True), ((101, 80), True), ((80, 100), False)])
def test_a_mask_of_another_shape_is_refused(tmp_path, size, fits):
    mask = Image.new("L", (50, 40))
    mask.paste(255, (10, 10, 30, 30))
    mask.save(tmp_path / "mask.png")
    if fits:
        assert len(read_outlines(tmp_path / "mask.png", image_size=size)) == 1
        return
    with pytest.raises(
        ImageError, match="is 50 x 40 px, another shape than the image of 80 x 100 px; export"
    ):
        read_outlines(tmp_path / "mask.png", image_size=size)
