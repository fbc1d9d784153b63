"""Boxes in CSV, zips, and how the format of a file is told."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from glomflow.errors import ImageError
from glomflow.imaging.annotations import read_outlines

SIZE = (200, 100)
CVAT = """<annotations><image id="0" name="batch1/a.png" width="200" height="100">
<polygon label="glomerulus" points="10.5,20;50,20;50,60;10.5,60"/></image>
<image id="1" name="b.png" width="200" height="100"/></annotations>"""
COCO = json.dumps(
    {
        "images": [{"id": 7, "file_name": "a.png", "width": 200, "height": 100}],
        "annotations": [{"image_id": 7, "segmentation": [[10, 20, 50, 20, 50, 60, 10, 60]]}],
    }
)


def write(tmp_path, content, name):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    return path


def read(path, image=None, size=SIZE):
    return read_outlines(path, image_size=size, image_name=image)


def summary(outlines):
    return [
        (tuple(round(edge, 3) for edge in outline.box), outline.lesion, outline.is_box)
        for outline in outlines
    ]


def refused(path, match, status="unreadable", image=None):
    with pytest.raises(ImageError, match=match) as caught:
        read(path, image)
    assert caught.value.status == status
    assert path.name in caught.value.reason


def png(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


# --- boxes in CSV ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "x,y,width,height,lesion\n10,20,40,40.5,normal\n100,20,40,40,\n",
        "\ufeffX;Y;Width;Height;Lesion\r\n10;20;40;40,5;normal\r\n\r\n100;20;40;40;\r\n",
        "left\ttop\tright\tbottom\tlesion\n10\t20\t50\t60.5\tnormal\n100\t20\t140\t60\t\n",
        'image,left,top,right,bottom,lesion\n"om/a.png",10,20,50,60.5,normal\nb.png,1,2,3,4,\n'
        "om/a.png,100,20,140,60,\n",
    ],
    ids=["corner and size", "semicolons and decimal commas", "tabs and edges", "several images"],
)
@pytest.mark.parametrize("name", ["boxes.csv", "boxes.txt"])
def test_boxes(tmp_path, text, name):
    assert summary(read(write(tmp_path, text, name), "om/a.png")) == [
        ((10, 20, 50, 60.5), "normal", True),
        ((100, 20, 140, 60), None, True),
    ]


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        (
            "x,y,w,height\n",
            "unreadable",
            "boxes.csv', row 1: unknown column 'w'.*; the columns are x, y, width",
        ),
        ("x,y,widht,height\n", "unreadable", "unknown column 'widht'; did you mean 'width'"),
        ("x,y,width\n1,2,3\n", "unreadable", "row 1: it has neither of x, y, width, height and left, top, r"),
        (
            "x,y,width,height,left,top,right,bottom\n",
            "unreadable",
            "row 1: it has both of x, y, width, height",
        ),
        ("x,x,y,width,height\n", "unreadable", "row 1: the column 'x' is there twice; remove one of them"),
        ("x,y,width,height\n1,2,3,4\n1,2,3\n", "unreadable", "row 3: it has 3 cells, the header 4; correct"),
        (
            "x,y,width,height\n\n1,2,b,4\n",
            "unreadable",
            "row 3: 'b' in column 'width' is no number; write px",
        ),
        ("x,y,width,height\n1,2,nan,4\n", "unreadable", "row 2: an edge of the box is NaN or infinite"),
        ("x,y,width,height\n1,2,0,4\n", "no_annotation", "row 2: the box is 0 x 4 px and has no area; draw"),
        ("x,y,width,height\n", "no_annotation", "boxes.csv' lists no box; add a row per glomerulus"),
        (
            "image,x,y,width,height\n,1,2,3,4\n",
            "unreadable",
            "row 2: the column 'image' is empty; fill it in",
        ),
        (
            "image,x,y,width,height\nb.png,1,2,3,4\nb.png,5,2,3,4\n",
            "no_annotation",
            r"boxes.csv' holds 1 image \(b.png\), but not 'a.png'; correct the column 'annotation'",
        ),
        ('x,y,width,height\n1,2,3,"4\n', "unreadable", "boxes.csv' is no CSV file .*; save it again"),
    ],
)
def test_damaged_boxes(tmp_path, text, status, reason):
    refused(write(tmp_path, text, "boxes.csv"), reason, status, image="a.png")


# --- told by content, and zips --------------------------------------------------------------------


def archive(tmp_path, files, name="a.zip"):
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for inner, content in files.items():
            target.writestr(inner, content)
    return path


def geojson():
    ring = [[10, 20], [50, 20], [50, 60], [10, 20]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return json.dumps({"type": "Feature", "geometry": geometry, "properties": {}})


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"annotations.xml": CVAT, "images/batch1/a.png": b"\x89PNG"}, 10.5),
        ({"annotations/instances_default.json": COCO}, 10),
        ({"a.geojson": geojson(), "__MACOSX/._a.geojson": "junk", ".DS_Store": "junk"}, 10),
        ({"mask.png": png(np.pad(np.ones((2, 2), bool), ((49, 49), (30, 168))))}, 30),
    ],
    ids=["CVAT", "COCO", "GeoJSON", "mask"],
)
def test_zips(tmp_path, files, left):
    assert read(archive(tmp_path, files), "a.png")[0].box[0] == left


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "a.zip' is a zip without annotations; it should hold GeoJSON, CVAT XML"),
        (
            {"a.json": "{}", "b.json": "{}"},
            r"a zip of several annotation files \(a.json, b.json\); unpack it",
        ),
        ({"a.json": "{}"}, "a.zip', file 'a.json' is JSON, but neither GeoJSON"),
        ({"a.json": "PK\x03\x04"}, "a.zip', file 'a.json' is a zip within a zip; unpack it"),
    ],
)
def test_unusable_zips(tmp_path, files, reason):
    refused(archive(tmp_path, files), reason)


def test_damaged_zips(tmp_path, monkeypatch):
    path = archive(tmp_path, {"a.geojson": geojson()})
    content = bytearray(path.read_bytes())
    content[45] ^= 255
    (tmp_path / "b.zip").write_bytes(content)
    refused(tmp_path / "b.zip", "b.zip' is a damaged or encrypted zip .*; export it again")
    (tmp_path / "c.zip").write_bytes(b"rubbish")
    refused(tmp_path / "c.zip", "c.zip' is a damaged or encrypted zip")
    monkeypatch.setattr("glomflow.imaging.annotations.read._LARGEST_MEMBER", 10)
    refused(path, "its file 'a.geojson' is larger than 512 MB; unpack the archive and export less at once")


@pytest.mark.parametrize(
    ("content", "name"),
    [(CVAT, "a.json"), (COCO, "a.xml"), (geojson(), "a.png")],
    ids=["XML", "JSON", "GeoJSON"],
)
def test_the_content_decides_not_the_name(tmp_path, content, name):
    assert read(write(tmp_path, content, name), "a.png")[0].box[1] == 20
