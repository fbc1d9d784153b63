"""ImageJ regions, single and in zips."""

import struct
import zipfile

import numpy as np
import pytest
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from glomflow.errors import ImageError
from glomflow.imaging.annotations import polygon_area, read_outlines

SIZE = (200, 100)
SQUARE = [[10, 20], [50, 20], [50, 60], [10, 60]]


def region(kind, left=0, top=0, right=0, bottom=0, **more):
    roi = ImagejRoi(roitype=ROI_TYPE[kind], left=left, top=top, right=right, bottom=bottom)
    for name, value in more.items():
        setattr(roi, name, value)
    return roi


def polygon(points, kind="POLYGON", **more):
    roi = ImagejRoi.frompoints(points, name="g")
    roi.roitype = ROI_TYPE[kind]
    for name, value in more.items():
        setattr(roi, name, value)
    return roi


def write(tmp_path, *rois, name="a.zip"):
    path = tmp_path / name
    with zipfile.ZipFile(path, "w") as archive:
        for number, roi in enumerate(rois):
            archive.writestr(f"{number:04d}.roi", roi if isinstance(roi, bytes) else roi.tobytes())
    return path


def read(path):
    return read_outlines(path, image_size=SIZE)


@pytest.mark.parametrize("kind", ["POLYGON", "FREEHAND", "TRACED"])
@pytest.mark.parametrize("name", ["a.roi", "region"])
def test_single_regions(tmp_path, kind, name):
    path = tmp_path / name
    path.write_bytes(polygon(SQUARE, kind).tobytes())
    (outline,) = read(path)
    assert outline.polygon.tolist() == SQUARE
    assert (outline.name, outline.lesion, outline.is_box) == ("g", None, False)


def test_subpixel_coordinates(tmp_path):
    points = [[10.25, 20.5], [50.75, 20.5], [50.75, 60.125]]
    (outline,) = read(write(tmp_path, polygon(points)))
    assert outline.polygon.tolist() == points


def test_rectangles_are_boxes(tmp_path):
    outlines = read(
        write(tmp_path, region("RECT", 10, 20, 50, 60), region("RECT", 100, 20, 140, 61, name="b"))
    )
    assert [outline.box for outline in outlines] == [(10, 20, 50, 60), (100, 20, 140, 61)]
    assert [outline.is_box for outline in outlines] == [True, True]
    assert [outline.name for outline in outlines] == ["0000", "b"]


def test_subpixel_rectangles_and_ovals(tmp_path):
    edges = {
        "xd": 10.25,
        "yd": 20.5,
        "widthd": 40.0,
        "heightd": 20.25,
        "options": ROI_OPTIONS.SUB_PIXEL_RESOLUTION,
    }
    box, oval = read(write(tmp_path, region("RECT", 10, 20, 50, 41, **edges), region("OVAL", **edges)))
    assert box.box == oval.box == (10.25, 20.5, 50.25, 40.75)
    assert (box.is_box, oval.is_box) == (True, False)


def test_ovals(tmp_path):
    (outline,) = read(write(tmp_path, region("OVAL", 40, 40, 80, 60)))
    assert outline.box == pytest.approx((40, 40, 80, 60))
    assert polygon_area(outline.polygon) == pytest.approx(np.pi * 20 * 10, rel=0.002)


def with_float(roi, value):
    """Writes the float at byte 52 that ImageJ keeps an ellipse's aspect ratio or a rectangle's width in."""
    content = bytearray(roi.tobytes())
    content[52:56] = struct.pack(">f", value)
    return bytes(content)


def test_ellipses_and_rotated_rectangles_without_points(tmp_path):
    axis = {"x1": 60.0, "y1": 30.0, "x2": 60.0, "y2": 70.0}
    ellipse = region("FREEHAND", subtype=ROI_SUBTYPE.ELLIPSE, **axis)
    rectangle = region("FREEHAND", subtype=ROI_SUBTYPE.ROTATED_RECT, **axis)
    outlines = read(write(tmp_path, with_float(ellipse, 0.5), with_float(rectangle, 16.0)))
    assert outlines[0].box == pytest.approx((50, 30, 70, 70))
    assert polygon_area(outlines[0].polygon) == pytest.approx(np.pi * 20 * 10, rel=0.002)
    assert outlines[1].box == pytest.approx((52, 30, 68, 70))
    assert [outline.is_box for outline in outlines] == [False, False]


def test_ellipses_with_points_use_them(tmp_path):
    roi = polygon([[10.5, 20], [50, 20], [50, 60]], "FREEHAND", subtype=ROI_SUBTYPE.ELLIPSE)
    assert read(write(tmp_path, roi))[0].box == (10.5, 20, 50, 60)


def path_of(*rings):
    values = []
    for ring in rings:
        values += [0, *ring[0]]
        for point in ring[1:]:
            values += [1, *point]
        values.append(4)
    return np.array(values, np.float32)


def test_composite_regions(tmp_path):
    hole = [[20, 30], [40, 30], [40, 50], [20, 50]]
    island = [[25, 35], [35, 35], [35, 45], [25, 45]]
    other = [[100, 20], [140, 20], [140, 60.5], [100, 60.5]]
    speck = [[150, 50], [151, 50], [151, 51]]
    path = path_of(SQUARE, hole, island, other, speck)
    roi = region("RECT", 10, 20, 152, 61, shape_roi_size=len(path), multi_coordinates=path)
    outlines = read(write(tmp_path, roi))
    assert [outline.box for outline in outlines] == [(10, 20, 50, 60), (25, 35, 35, 45), (100, 20, 140, 60.5)]
    assert not any(outline.is_box for outline in outlines)


def test_lesions_come_from_a_property(tmp_path):
    (outline,) = read(write(tmp_path, polygon(SQUARE, props="group: 3\nlesion: crescentic\n")))
    assert outline.lesion == "crescentic"


@pytest.mark.parametrize("kind", ["LINE", "FREELINE", "POLYLINE", "ANGLE", "POINT", "NOROI"])
def test_what_is_no_area_is_ignored(tmp_path, kind):
    line = region(kind) if kind in ("LINE", "NOROI") else polygon(SQUARE, kind)
    assert len(read(write(tmp_path, line, polygon(SQUARE)))) == 1
    with pytest.raises(
        ImageError, match=r"b\.zip' holds no area selection among its 1 regions; outline"
    ) as caught:
        read(write(tmp_path, line, name="b.zip"))
    assert caught.value.status == "no_annotation"


def test_text_is_ignored(tmp_path):
    text = region("RECT", 10, 20, 50, 60, subtype=ROI_SUBTYPE.TEXT, text="a note", text_name="Sans")
    assert len(read(write(tmp_path, text, polygon(SQUARE)))) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"Iout", r"region '0000\.roi': it is no ImageJ region .*; save it again in ImageJ"),
        (b"x" * 100, r"region '0000\.roi': it is no ImageJ region"),
        (polygon(SQUARE).tobytes()[:70], r"region '0000\.roi': it is no ImageJ region"),
        (polygon([[1, 1], [5, 5], [9, 9]]).tobytes(), "region 'g': the polygon has no area; draw it again"),
        (region("RECT", 5, 5, 5, 9).tobytes(), "region '0000': the box is 0 x 4 px and has no area"),
        (region("OVAL", 5, 5, 5, 9).tobytes(), "region '0000': the ellipse has no area; draw it again"),
    ],
    ids=["too short", "other magic", "cut off", "a line", "no width", "flat oval"],
)
def test_damaged_regions(tmp_path, content, reason):
    with pytest.raises(ImageError, match=reason):
        read(write(tmp_path, content))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (
            np.array([2, 1, 1, 5, 5], np.float32),
            "its composite shape cannot be read .*; save it as a polygon",
        ),
        (np.array([7, 1, 1], np.float32), "its composite shape cannot be read"),
        (path_of([[1, 1], [5, 5], [9, 9]]), "its composite shape has no area; draw it again or remove it"),
    ],
    ids=["curves", "unknown command", "no area"],
)
def test_damaged_composites(tmp_path, path, reason):
    roi = region("RECT", 0, 0, 9, 9, shape_roi_size=len(path), multi_coordinates=path)
    with pytest.raises(ImageError, match=reason):
        read(write(tmp_path, roi))
