"""CVAT, COCO and labelme: what is read, and what is wrong with what is not."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from glomflow.errors import ImageError
from glomflow.imaging.annotations import polygon_area, read_outlines

SIZE = (200, 100)


def write(tmp_path, content, name):
    path = tmp_path / name
    if isinstance(content, dict | list):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, image=None, size=SIZE):
    return read_outlines(path, image_size=size, image_name=image)


def summary(outlines):
    return [
        (tuple(round(edge, 3) for edge in outline.box), outline.lesion, outline.is_box)
        for outline in outlines
    ]


def refused(path, match, status="unreadable", image=None, size=SIZE):
    with pytest.raises(ImageError, match=match) as caught:
        read(path, image, size)
    assert caught.value.status == status
    assert path.name in caught.value.reason


# --- CVAT -----------------------------------------------------------------------------------------

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><name>x</name></task></meta>
<image id="0" name="batch1/a.png" width="200" height="100">
  <polygon label="glomerulus" points="10.5,20;50,20;50,60;10.5,60" z_order="0"></polygon>
  <box label="sclerosed" xtl="100" ytl="20" xbr="140" ybr="60"><attribute name="x">y</attribute></box>
  <ellipse label="glomerulus" cx="60" cy="50" rx="20" ry="10">
    <attribute name="lesion">crescentic</attribute></ellipse>
  <points label="glomerulus" points="1,2"/><polyline label="g" points="1,2;3,4"/>
</image>
<image id="1" name="batch1/b.png" width="200" height="100">
  <mask label="m" rle="1,2,1,4,1,2,1" left="30" top="40" width="4" height="3"/>
</image>
<image id="2" name="batch1/c.png" width="200" height="100"/>
</annotations>"""


def test_cvat_shapes(tmp_path):
    path = write(tmp_path, CVAT, "annotations.xml")
    assert summary(read(path, "om/a.png")) == [
        ((10.5, 20, 50, 60), "glomerulus", False),
        ((100, 20, 140, 60), "sclerosed", True),
        ((40, 40, 80, 60), "crescentic", False),
    ]
    ellipse = read(path, "a.png")[2]
    assert polygon_area(ellipse.polygon) == pytest.approx(np.pi * 200, rel=0.002)


def test_cvat_masks_run_along_the_rows(tmp_path):
    (outline,) = read(write(tmp_path, CVAT, "a.xml"), "b.png")
    assert outline.box == (30, 40, 34, 43)
    # .XX. / XXXX / .XX. : eight pixels, whose corners the contour cuts.
    assert polygon_area(outline.polygon) == pytest.approx(8 - 0.5)


def test_cvat_rotations(tmp_path):
    shapes = """<annotations><image name="a" width="200" height="100">
    <box label="b" xtl="60" ytl="40" xbr="100" ybr="60" rotation="90"/>
    <ellipse label="e" cx="60" cy="50" rx="20" ry="10" rotation="90"/></image></annotations>"""
    assert summary(read(write(tmp_path, shapes, "a.xml"))) == [
        ((70, 30, 90, 70), "b", True),
        ((50, 30, 70, 70), "e", False),
    ]


def test_cvat_of_a_smaller_copy_is_scaled(tmp_path):
    path = write(tmp_path, CVAT, "a.xml")
    assert read(path, "a.png", size=(800, 401))[1].box == pytest.approx((400, 80.2, 560, 240.6))
    refused(
        path,
        r"image 'batch1/a.png': it is 200 x 100 px, another shape than the image of 100 x 100 px; export the",
        "no_annotation",
        "a.png",
        (100, 100),
    )


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("batch1/b.png", 30),
        ("folder/batch1/b.png", 30),
        ("b.png", 30),
        ("slides/b.ome.tif", 30),
        ("a.svs", 10.5),
    ],
)
def test_the_image_of_a_name(tmp_path, name, first):
    assert read(write(tmp_path, CVAT, "a.xml"), name)[0].box[0] == first


def test_images_that_are_not_there(tmp_path):
    path = write(tmp_path, CVAT, "a.xml")
    held = r"a.xml' holds 3 images \(batch1/a.png, batch1/b.png, batch1/c.png\)"
    refused(path, held + ", but not 'om/d.png'; correct the column 'annotation'", "no_annotation", "om/d.png")
    refused(path, held + "; say which image is meant", "no_annotation")
    refused(path, "image 'batch1/c.png': it has no polygon, box, ellipse or mask", "no_annotation", "c.png")
    twice = CVAT.replace("batch1/b.png", "batch2/a.png")
    refused(
        write(tmp_path, twice, "b.xml"),
        r"the image 'a.png' may be any of 2 images \(batch1/a.png, batch2/a.png\); rename",
        "no_annotation",
        "a.png",
    )
    assert read(tmp_path / "b.xml", "batch2/a.png")[0].box[0] == 30


def one_shape(shape):
    return f'<annotations><image name="a" width="200" height="100">{shape}</image></annotations>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<annotations><image", "a.xml' is not XML .*; export it again"),
        ("<a/>", "its root is 'a' and not CVAT's 'annotations'; export it as 'CVAT for images 1.1'"),
        ("<annotations><track/></annotations>", "holds the tracks of a video; export it as 'CVAT for images"),
        (one_shape('<polygon points="1,2;x,3;4,5"/>'), "image 'a', shape 1: its points are no 'x,y;x,y;...'"),
        (one_shape('<polygon points="1,2;3;4,5"/>'), "shape 1: a point of the polygon is no pair of numbers"),
        (
            one_shape('<box xtl="1" ytl="2" xbr="x" ybr="3"/>'),
            "shape 1: its attribute 'xbr' is no number; ex",
        ),
        (one_shape('<box xtl="1" ytl="2" ybr="3"/>'), "shape 1: its attribute 'xbr' is no number; export"),
        (one_shape('<box xtl="1" ytl="2" xbr="inf" ybr="3"/>'), "its attribute 'xbr' is NaN or infinite"),
        (
            one_shape('<mask rle="1,2" left="1" top="1" width="2" height="2"/>'),
            "shape 1: its run lengths cover 3 px, but the mask is 2 x 2 px; export it again",
        ),
        (
            one_shape('<mask rle="1,a" left="1" top="1" width="2" height="2"/>'),
            "its 'rle' is no list of run l",
        ),
    ],
)
def test_damaged_cvat(tmp_path, content, reason):
    refused(write(tmp_path, content, "a.xml"), reason)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (
            '<box xtl="5" ytl="2" xbr="5" ybr="3"/>',
            "shape 1: the box is 0 x 1 px and has no area; draw it ag",
        ),
        ('<ellipse cx="5" cy="2" rx="0" ry="3"/>', "shape 1: the ellipse has no area; draw it again or"),
        (
            '<mask rle="4" left="1" top="1" width="2" height="2"/>',
            "shape 1: the mask is empty; draw it again",
        ),
    ],
)
def test_empty_cvat_shapes(tmp_path, shape, reason):
    refused(write(tmp_path, one_shape(shape), "a.xml"), reason, "no_annotation")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_are_refused(tmp_path, encoding):
    bomb = (
        '<!DOCTYPE annotations [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
        '<!ENTITY f SYSTEM "file:///etc/hostname">]>'
        + one_shape("<polygon label='&b;' points='1,2;3,4;5,9'/>")
    )
    text = f'<?xml version="1.0" encoding="{encoding}"?>' + bomb
    path = write(tmp_path, text.encode(encoding), "a.xml")
    refused(path, r"declares a document type \(DOCTYPE\), which is refused; remove that line")


# --- COCO -----------------------------------------------------------------------------------------


def coco(*annotations, size=SIZE):
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": size[0], "height": size[1]},
            {"id": 8, "file_name": "b.png", "width": size[0], "height": size[1]},
        ],
        "categories": [{"id": 1, "name": "normal"}, {"id": 2, "name": "sclerosed"}],
        "annotations": [{"id": number, "image_id": 7, **one} for number, one in enumerate(annotations)],
    }


SQUARE = [10, 20, 50, 20, 50, 60, 10, 60]
# 3 columns of 5 px; the middle column's rows 1 to 3 and the last column's row 2 are set.
RUNS = [6, 3, 3, 1, 2]


def test_coco_polygons_boxes_and_categories(tmp_path):
    document = coco(
        {"category_id": 2, "segmentation": [SQUARE], "bbox": [0, 0, 1, 1]},
        {"category_id": 1, "segmentation": [], "bbox": [100, 20, 40, 40.5]},
        {"category_id": 9, "bbox": [100, 20, 40, 40]},
        {"category_id": 1, "segmentation": [SQUARE, [80, 20, 110, 20, 110, 50], [0, 0, 1, 0, 1, 1]]},
        {"category_id": 1, "segmentation": [SQUARE], "image_id": 8},
    )
    assert summary(read(write(tmp_path, document, "a.json"), "om/a.png")) == [
        ((10, 20, 50, 60), "sclerosed", False),
        ((100, 20, 140, 60.5), "normal", True),
        ((100, 20, 140, 60), None, True),
        ((10, 20, 50, 60), "normal", False),
        ((80, 20, 110, 50), "normal", False),
    ]


def runs_of(mask):
    """Run lengths down the columns, counted one by one."""
    counts, current, length = [], False, 0
    for value in mask.T.reshape(-1).tolist():
        if value != current:
            counts.append(length)
            current, length = value, 0
        length += 1
    return [*counts, length]


def compressed(counts):
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        while True:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            text += chr(48 + digit + 32 * more)
            if not more:
                break
    return text


def test_coco_run_lengths(tmp_path):
    mask = np.zeros((100, 200), bool)
    yy, xx = np.mgrid[:100, :200]
    mask |= (xx - 120.5) ** 2 / 30**2 + (yy - 40.5) ** 2 / 20**2 < 1
    counts = runs_of(mask)
    assert compressed(counts) != ",".join(map(str, counts))
    plain, packed = (
        read(
            write(
                tmp_path,
                coco({"category_id": 1, "iscrowd": 1, "segmentation": {"size": [100, 200], "counts": one}}),
                "a.json",
            ),
            "a.png",
        )[0]
        for one in (counts, compressed(counts))
    )
    assert plain.box == (91, 21, 151, 61)
    assert polygon_area(plain.polygon) == pytest.approx(mask.sum(), rel=0.005)
    assert np.array_equal(plain.polygon, packed.polygon)


def test_compressed_run_lengths_by_hand(tmp_path):
    # '6', '3', '3' are themselves; the fourth number is 1 = 3 - 2, the fifth 2 = 3 - 1: 'N' is -2, 'O' -1.
    document = coco({"category_id": 1, "segmentation": {"size": [5, 3], "counts": "633NO"}}, size=(3, 5))
    plain = coco({"category_id": 1, "segmentation": {"size": [5, 3], "counts": RUNS}}, size=(3, 5))
    first = read(write(tmp_path, document, "a.json"), "a.png", (3, 5))[0]
    second = read(write(tmp_path, plain, "b.json"), "a.png", (3, 5))[0]
    assert first.box == (1, 1, 3, 4)
    assert np.array_equal(first.polygon, second.polygon)


def test_a_small_mask_of_a_large_image_is_cheap(tmp_path):
    height, width, left = 40_000, 50_000, 30_000
    counts = [left * height + 100, *([50, height - 50] * 59), 50]
    counts.append(height * width - sum(counts))
    document = coco({"segmentation": {"size": [height, width], "counts": counts}}, size=(width, height))
    (outline,) = read(write(tmp_path, document, "a.json"), "a.png", (width, height))
    assert outline.box == (30_000, 100, 30_060, 150)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ({"segmentation": [[1, 2, 3]]}, "annotation 1: a polygon is no list of x and y by turns; export"),
        ({"segmentation": [[1, 2, "x", 4, 5, 6]]}, "annotation 1: a point of the polygon is no pair of numb"),
        (
            {"segmentation": {"size": [5, 3], "counts": [3]}},
            "its run lengths cover 3 px, but the mask is 3 x",
        ),
        ({"segmentation": {"size": [5, 3], "counts": [-1, 16]}}, "its run lengths cover 15 px, but the mask"),
        ({"segmentation": {"size": [5], "counts": [3]}}, "no 'size' and 'counts' of integers; export"),
        ({"segmentation": {"size": [5, 3], "counts": [1.5]}}, "no 'size' and 'counts' of integers; export"),
        ({"segmentation": {"size": [5, 3], "counts": [10**30]}}, "a run length is too large; export"),
        (
            {"segmentation": {"size": [5, 3], "counts": "5 "}},
            "its run lengths hold the character ' '; export",
        ),
        (
            {"segmentation": {"size": [5, 3], "counts": "5P"}},
            "its run lengths end within a number; export it",
        ),
        ({}, "annotation 1: it has neither a segmentation nor a 'bbox' of four numbers; export it again"),
        ({"bbox": [1, 2, 3]}, "annotation 1: it has neither a segmentation nor a 'bbox' of four numbers"),
        ({"bbox": [1, 2, 3, 1e9]}, "annotation 1: its 'bbox' is beyond any image; export it in pixels of"),
        ({"segmentation": [[1, 2, 3, 1e9, 5, 6]]}, "a coordinate of the polygon is beyond any image; export"),
        ({"bbox": [1, 2, 3, "4"]}, "annotation 1: it has neither a segmentation nor a 'bbox' of four numb"),
    ],
)
def test_damaged_coco_annotations(tmp_path, annotation, reason):
    refused(write(tmp_path, coco(annotation), "a.json"), reason, image="a.png")


def test_damaged_coco_files(tmp_path):
    refused(
        write(tmp_path, coco({"segmentation": [SQUARE]}), "a.json"),
        r"a.json' holds 2 images \(a.png, b.png\), but not 'c.png'",
        "no_annotation",
        "c.png",
    )
    refused(
        write(tmp_path, coco({"segmentation": [SQUARE]}), "a.json"),
        "a.json' holds no annotation of 'b.png'; outline at least one glomerulus",
        "no_annotation",
        "b.png",
    )
    refused(
        write(tmp_path, coco({"segmentation": [SQUARE]}, size=(100, 200)), "a.json"),
        "the annotated image 'a.png' is 100 x 200 px, another shape than the image of 200 x 100 px",
        "no_annotation",
        "a.png",
    )
    for key in ("images", "annotations", "categories"):
        document = coco({"segmentation": [SQUARE]}) | {key: {}}
        refused(
            write(tmp_path, document, "a.json"), f"the COCO key '{key}' is no list of objects", image="a.png"
        )
    document = coco({"segmentation": [SQUARE]}) | {"images": [{"id": 7}]}
    refused(write(tmp_path, document, "a.json"), "an entry of 'images' has no 'file_name'", image="a.png")


# --- labelme --------------------------------------------------------------------------------------


def labelme(*shapes, size=SIZE):
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": "a.png",
        "imageData": None,
        "imageWidth": size[0],
        "imageHeight": size[1],
    }


def shape(kind, points, label="normal", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def png(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_labelme_shapes(tmp_path):
    mask = np.zeros((6, 8), bool)
    mask[1:5, 2:8] = True
    document = labelme(
        shape("polygon", [[10, 20], [50, 20], [50.5, 60]], "sclerosed"),
        shape("rectangle", [[140, 60], [100, 20]]),
        shape("rectangle", [[100, 20], [140, 20], [140, 60], [100, 60]]),
        shape("circle", [[60, 50], [60, 70]]),
        shape("mask", [[30, 40], [37, 45]], mask=png(mask)),
        shape("point", [[1, 2]]),
        shape("line", [[1, 2], [3, 4]]),
    )
    outlines = read(write(tmp_path, document, "a.json"), "other_name.svs")
    assert summary(outlines) == [
        ((10, 20, 50.5, 60), "sclerosed", False),
        ((100, 20, 140, 60), "normal", True),
        ((100, 20, 140, 60), "normal", True),
        ((40, 30, 80, 70), "normal", False),
        ((32, 41, 38, 45), "normal", False),
    ]
    assert polygon_area(outlines[3].polygon) == pytest.approx(np.pi * 400, rel=0.002)


def test_labelme_of_a_smaller_copy_is_scaled(tmp_path):
    path = write(tmp_path, labelme(shape("rectangle", [[10, 20], [50, 60]])), "a.json")
    assert read(path, size=(400, 200))[0].box == (20, 40, 100, 120)
    refused(path, "the annotated image 'a.png' is 200 x 100 px, another", "no_annotation", size=(50, 100))


@pytest.mark.parametrize(
    ("bad", "status", "reason"),
    [
        ({"points": 3}, "unreadable", "shape 1: it has no list of points; save it again in labelme"),
        (shape("circle", [[1, 2]]), "unreadable", "shape 1: a circle needs two points and has 1; draw it"),
        (shape("rectangle", [[1, "x"], [2, 3]]), "unreadable", "a point of the rectangle is no pair of numb"),
        (shape("polygon", [[1, 2], [3]]), "unreadable", "shape 1: a point of the polygon is no pair of numb"),
        (
            shape("mask", [[1, 2], [3, 4]], mask="!"),
            "unreadable",
            "its mask cannot be decoded .*; save it ag",
        ),
        (shape("mask", [[1, 2], [3, 4]]), "unreadable", "shape 1: its mask cannot be decoded"),
        (
            shape("mask", [[1, 2], [3, 4]], mask=png(np.zeros((2, 2), bool))),
            "no_annotation",
            "shape 1: the mask is empty; draw it again or remove it",
        ),
        (
            shape("point", [[1, 2]]),
            "no_annotation",
            "holds no polygon, rectangle, circle or mask among its 1 shapes; outline at least one glomerulus",
        ),
    ],
)
def test_damaged_labelme(tmp_path, bad, status, reason):
    refused(write(tmp_path, labelme(bad), "a.json"), reason, status)
