"""IM crops: the three forms of a set, fixed brightness, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from glomflow.config import ImCrops
from glomflow.imaging.im import crop_im_shard, entropy, marker_of
from glomflow.tables import CROPS, write_table

SETTINGS = ImCrops(size=32)
FULL = 32768
"""16-bit sample that ``max_level`` 0.5 shows at full brightness."""


class Cohort:
    """A cohort folder with IM images and the columns of its tables that matter here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []

    def add(
        self, name: str, channels: str, *, patient: str = "p1", slide: str | None = None, **sheet: Any
    ) -> None:
        image = name.split(".", maxsplit=1)[0]
        row = {
            "image": image,
            "patient": patient,
            "modality": "IM",
            "path": name,
            "slide": slide or image,
            "status": "ok",
            "channels": channels,
            "um_per_px": 0.5,
            "marker": None,
            "annotation": None,
            "lesion": None,
            "row": len(self.rows) + 2,
        }
        self.rows.append({**row, **sheet})

    def multi(
        self, name: str, levels: dict[str, int], *, size: tuple[int, int] = (64, 64), **more: Any
    ) -> None:
        stack = np.stack([np.full(size, level, np.uint16) for level in levels.values()])
        metadata = {"axes": "CYX", "Channel": {"Name": list(levels)}}
        tifffile.imwrite(self.folder / name, stack, ome=True, metadata=metadata, photometric="minisblack")
        self.add(name, more.pop("channels", ";".join(levels)), **more)

    def gray(self, name: str, level: int, marker: str | None, **more: Any) -> None:
        tifffile.imwrite(self.folder / name, np.full((64, 64), level, np.uint16))
        self.add(name, "gray", marker=marker, **more)

    def colour(self, name: str, level: tuple[int, int, int], marker: str | None, **more: Any) -> None:
        Image.new("RGB", (64, 64), level).save(self.folder / name)
        self.add(name, "R;G;B", marker=marker, **more)

    def crop(self, settings: ImCrops = SETTINGS) -> tuple[np.ndarray, pd.DataFrame]:
        frame = pd.DataFrame(self.rows)
        return crop_im_shard(frame, frame, self.folder, settings)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path)


def only(crops: np.ndarray) -> tuple[int, int, int]:
    """Returns the one colour of the one crop."""
    assert crops.shape == (1, 32, 32, 3)
    assert (crops == crops[0, 0, 0]).all()
    return tuple(crops[0, 0, 0].tolist())


def test_channels_of_a_file_by_their_own_names(cohort: Cohort) -> None:
    levels = {"IgG": FULL, "IgA": FULL // 2, "IgM": FULL, "C3": 0, "C1q": FULL // 2}
    cohort.multi("a.ome.tif", levels)
    crops, index = cohort.crop()
    assert only(crops) == (255, 128, 128)
    row = index.iloc[0]
    assert (row["crop"], row["patient"], row["modality"], row["flag"]) == ("a#0", "p1", "IM", "")
    assert (row["x"], row["y"], row["width"], row["height"]) == (0, 0, 64, 64)
    assert row["um_per_px"] == 1.0
    assert row["selected"]
    write_table(cohort.folder / "index.parquet", index, CROPS)


def test_the_marker_column_has_precedence(cohort: Cohort) -> None:
    cohort.multi("a.ome.tif", {"IgG": FULL, "IgA": 0}, marker="anti-IgA; Ig G")
    assert only(cohort.crop()[0]) == (0, 255, 0)


def test_a_missing_marker_does_not_dim_its_colour(cohort: Cohort) -> None:
    cohort.multi("a.ome.tif", {"C3": FULL, "DAPI": FULL})
    assert only(cohort.crop()[0]) == (0, 0, 255)


def test_a_file_per_marker_of_one_slide(cohort: Cohort) -> None:
    cohort.gray("g.tif", FULL, "IgG", slide="s1")
    cohort.gray("a.tif", FULL // 4, "IgA", slide="s1")
    cohort.gray("c.tif", FULL // 2, "c3", slide="s1")
    cohort.gray("other.tif", FULL, "IgM", slide="s2")
    crops, index = cohort.crop()
    assert only(crops) == (255, 64, 128)
    assert list(index["image"]) == ["g"]


def test_files_per_marker_without_a_common_slide_belong_together(cohort: Cohort) -> None:
    cohort.gray("g.tif", FULL, "IgG")
    cohort.gray("m.tif", FULL, "IgM")
    cohort.gray("a.tif", FULL // 2, "IgA", patient="p2")
    crops, index = cohort.crop()
    assert crops[:, 0, 0].tolist() == [[255, 0, 255], [0, 128, 0]]
    assert list(index["patient"]) == ["p1", "p2"]
    assert list(index["row"]) == [0, 1]


def test_the_second_file_of_a_marker_is_named(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    cohort.gray("g.tif", FULL, "IgG", slide="s")
    cohort.gray("h.tif", 0, "igg", slide="s")
    assert only(cohort.crop()[0]) == (255, 0, 0)
    assert capsys.readouterr().out == "note: IM image h.tif is not used: igg is there already\n"


def test_a_composite_keeps_its_colours_on_the_common_scale(cohort: Cohort) -> None:
    cohort.colour("a.png", (100, 30, 7), None)
    assert only(cohort.crop()[0]) == (200, 60, 14)
    assert only(cohort.crop(ImCrops(size=32, max_level=1.0))[0]) == (100, 30, 7)


def test_a_colour_picture_of_one_marker_counts_by_its_brightest_channel(cohort: Cohort) -> None:
    cohort.colour("a.png", (3, 64, 0), "IgG")
    assert only(cohort.crop()[0]) == (128, 0, 0)


def test_a_colour_picture_of_three_markers(cohort: Cohort) -> None:
    cohort.colour("a.png", (0, 127, 64), "C3;IgG;IgA")
    assert only(cohort.crop()[0]) == (254, 128, 0)


def test_markers_in_the_configured_order(cohort: Cohort) -> None:
    levels = {"IgG": FULL, "IgA": FULL // 2, "IgM": FULL // 4, "C3": 0, "C1q": 0}
    cohort.multi("a.ome.tif", levels)
    assert only(cohort.crop(ImCrops(size=32, markers=["IgA", "IgM", "IgG", "C3"]))[0]) == (128, 64, 128)
    assert only(cohort.crop(ImCrops(size=32, markers=["C3", "IgG"]))[0]) == (0, 255, 0)
    assert only(cohort.crop(ImCrops(size=32, markers=["IgM"]))[0]) == (64, 64, 64)


def test_markers_that_a_patient_does_not_have(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    cohort.multi("a.ome.tif", {"IgG": FULL, "IgA": 0})
    crops, _ = cohort.crop(ImCrops(size=32, markers=["kappa"]))
    assert len(crops) == 0
    assert "shows none of the configured markers (kappa) but IgG, IgA; name its" in capsys.readouterr().out


def test_a_dark_marker_is_kept_and_stays_dark(cohort: Cohort) -> None:
    cohort.gray("g.tif", FULL, "IgG", slide="s")
    cohort.gray("q.tif", 0, "C1q", slide="s")
    cohort.gray("d.tif", 0, "IgG", patient="p2")
    crops, index = cohort.crop()
    assert crops[:, 0, 0].tolist() == [[255, 0, 0], [0, 0, 0]]
    assert list(index["flag"]) == ["", "dark"]
    assert list(index["selected"]) == [True, True]


def structured(seed: int) -> np.ndarray:
    """A field of blobs, 64 x 64, 0 to 255."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).standard_normal((64, 64)), 2)
    return np.clip(field / field.max(), 0, 1) * 250


def photograph(cohort: Cohort, name: str, *channels: np.ndarray, **sheet: Any) -> None:
    picture = np.rint(np.stack(channels, axis=2)).astype(np.uint8)
    Image.fromarray(picture).save(cohort.folder / name)
    cohort.add(name, "R;G;B", **sheet)


def test_a_photograph_of_one_fluorophore_becomes_one_channel(
    cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    green = structured(1)
    photograph(cohort, "a.png", 0.1 * green, green, 0.1 * green)
    settings = ImCrops(size=64, max_level=1.0)
    crops, index = cohort.crop(settings)
    assert np.array_equal(crops[0], np.repeat(np.rint(green).astype(np.uint8)[:, :, None], 3, axis=2))
    assert list(index["flag"]) == ["one_hue"]
    assert capsys.readouterr().out == (
        "note: a.png shows a single hue and is taken for a photograph of one marker, shown in grey; name it "
        "in the column marker of images.csv, or set imaging.im.unnamed_colour: composite\n"
    )
    crops, index = cohort.crop(settings.model_copy(update={"unnamed_colour": "composite"}))
    assert np.array_equal(crops[0, :, :, 1], np.rint(green).astype(np.uint8))
    assert crops[0, :, :, 0].max() == 25
    assert list(index["flag"]) == [""]


def test_a_photograph_whose_marker_is_named_takes_its_colour(cohort: Cohort) -> None:
    green = structured(1)
    photograph(cohort, "a.png", 0.1 * green, green, 0.1 * green, marker="IgG")
    crops, index = cohort.crop(ImCrops(size=64, max_level=1.0))
    assert np.array_equal(crops[0, :, :, 0], np.rint(green).astype(np.uint8))
    assert crops[0, :, :, 1:].max() == 0
    assert list(index["flag"]) == [""]


def test_two_fluorophores_are_a_composite(cohort: Cohort) -> None:
    photograph(cohort, "a.png", structured(1), structured(2), np.zeros((64, 64)))
    crops, index = cohort.crop(ImCrops(size=64, max_level=1.0))
    assert np.array_equal(crops[0, :, :, 1], np.rint(structured(2)).astype(np.uint8))
    assert list(index["flag"]) == [""]


@pytest.mark.parametrize("method", ["percentile", "rolling"])
def test_background_is_subtracted_and_dark_markers_stay_dark(cohort: Cohort, method: str) -> None:
    stack = np.full((3, 64, 64), 3000, np.uint16)
    stack[0, 29:37, 29:37] = FULL
    stack[2] = 0
    metadata = {"axes": "CYX", "Channel": {"Name": ["IgG", "IgA", "IgM"]}}
    tifffile.imwrite(cohort.folder / "a.ome.tif", stack, ome=True, metadata=metadata)
    cohort.add("a.ome.tif", "IgG;IgA;IgM")
    plain = cohort.crop(ImCrops(size=64))[0][0]
    crops, index = cohort.crop(ImCrops(size=64, background=method))
    assert plain[0, 0].tolist() == [23, 23, 0]
    assert crops[0, 0, 0].tolist() == [0, 0, 0]
    red, green, blue = crops[0, 32, 32].tolist()
    assert 227 <= red <= 232
    assert (green, blue) == (0, 0)
    assert list(index["flag"]) == [""]


def test_signal_that_fills_the_image_is_not_taken_for_background(cohort: Cohort) -> None:
    cohort.multi("a.ome.tif", {"IgG": FULL, "IgA": 0})
    crops, index = cohort.crop(ImCrops(size=32, background="percentile"))
    assert only(crops) == (191, 0, 0)
    assert list(index["flag"]) == ["bright_background"]


def test_the_set_with_most_markers_is_used(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    cohort.colour("composite.png", (9, 9, 9), None)
    cohort.gray("single.tif", FULL, "IgG")
    cohort.multi("all.ome.tif", {"IgG": 0, "IgA": FULL})
    crops, index = cohort.crop()
    assert only(crops) == (0, 255, 0)
    assert list(index["image"]) == ["all"]
    assert capsys.readouterr().out.splitlines() == [
        "note: IM of patient p1: all.ome.tif is used, not single.tif",
        "note: IM of patient p1: all.ome.tif is used, not composite.png",
    ]


def test_of_equal_sets_the_first_of_the_sheet_is_used(cohort: Cohort) -> None:
    cohort.multi("z.ome.tif", {"IgG": FULL, "IgA": 0})
    cohort.multi("a.ome.tif", {"IgG": 0, "IgA": FULL})
    assert only(cohort.crop()[0]) == (255, 0, 0)


def test_brightness_depends_on_the_type_and_not_on_the_image(cohort: Cohort) -> None:
    cohort.multi("a.ome.tif", {"IgG": FULL // 10, "IgA": 0}, patient="p1")
    cohort.multi("b.ome.tif", {"IgG": FULL // 10, "IgA": 65535}, patient="p2")
    crops, _ = cohort.crop()
    assert crops[0, 0, 0].tolist() == [25, 0, 0]
    assert crops[1, 0, 0].tolist() == [25, 255, 0]


def test_a_dark_image_is_flagged(cohort: Cohort) -> None:
    cohort.multi("a.ome.tif", {"IgG": 100, "C1q": 0})
    crops, index = cohort.crop()
    assert only(crops) == (1, 0, 0)
    assert list(index["flag"]) == ["dark"]
    assert list(index["information"]) == [0.0]


def test_the_middle_at_a_stated_resolution(cohort: Cohort) -> None:
    image = np.zeros((2, 80, 120), np.uint16)
    image[0, 24:56, 44:76] = FULL
    metadata = {"axes": "CYX", "Channel": {"Name": ["IgG", "IgA"]}}
    tifffile.imwrite(cohort.folder / "a.ome.tif", image, ome=True, metadata=metadata)
    cohort.add("a.ome.tif", "IgG;IgA")
    crops, index = cohort.crop(ImCrops(size=32, um_per_px=0.5))
    assert only(crops) == (255, 0, 0)
    row = index.iloc[0]
    assert (row["x"], row["y"], row["width"], row["um_per_px"], row["flag"]) == (44, 24, 32, 0.5, "")


def test_beyond_the_image_it_is_dark(cohort: Cohort) -> None:
    cohort.colour("a.png", (200, 200, 200), None)
    crops, index = cohort.crop(ImCrops(size=32, um_per_px=2.0))
    assert list(index["flag"]) == ["padded"]
    assert (index["x"][0], index["width"][0]) == (-32, 128)
    assert crops[0, 0, 0].tolist() == [0, 0, 0]
    assert crops[0, 16, 16].tolist() == [255, 255, 255]


def outline(folder: Path, *squares: tuple[int, int, int, str]) -> str:
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": lesion}},
            "geometry": {
                "type": "Polygon",
                "coordinates": [
                    [[x, y], [x + edge, y], [x + edge, y + edge], [x, y + edge], [x, y]],
                ],
            },
        }
        for x, y, edge, lesion in squares
    ]
    (folder / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return "a.geojson"


def test_the_largest_annotated_glomerulus_is_cropped(cohort: Cohort) -> None:
    annotation = outline(cohort.folder, (2, 2, 4, "small"), (20, 30, 20, "large"))
    cohort.multi("a.ome.tif", {"IgG": FULL, "IgA": 0}, annotation=annotation)
    crops, index = cohort.crop()
    assert only(crops) == (255, 0, 0)
    row = index.iloc[0]
    assert (row["x"], row["y"], row["width"], row["height"]) == pytest.approx((17, 27, 26, 26))
    assert row["lesion"] == "large"
    assert row["um_per_px"] == pytest.approx(0.5 * 26 / 32)


def test_a_glomerulus_cut_by_the_border_is_flagged(cohort: Cohort) -> None:
    annotation = outline(cohort.folder, (50, 20, 30, "cut"))
    cohort.multi("a.ome.tif", {"IgG": FULL, "IgA": 0}, annotation=annotation)
    _, index = cohort.crop()
    assert list(index["flag"]) == ["at_border;padded"]


def test_boxes_of_several_images_in_one_file(cohort: Cohort) -> None:
    (cohort.folder / "boxes.csv").write_text(
        "image,x,y,width,height,lesion\nother.tif,0,0,9,9,\na.ome.tif,20,30,20,20,normal\n"
    )
    cohort.multi("a.ome.tif", {"IgG": FULL, "IgA": 0}, annotation="boxes.csv")
    _, index = cohort.crop()
    assert (index["x"][0], index["y"][0], index["width"][0]) == pytest.approx((17, 27, 26))
    assert index["lesion"][0] == "normal"


@pytest.mark.parametrize(("um_per_px", "edge"), [(0.6, 38.4), (0.1, 26.0)])
def test_an_outline_at_a_stated_resolution_is_held_whole(
    cohort: Cohort, um_per_px: float, edge: float
) -> None:
    annotation = outline(cohort.folder, (20, 20, 20, "x"))
    cohort.multi("a.ome.tif", {"IgG": FULL, "IgA": 0}, annotation=annotation)
    _, index = cohort.crop(ImCrops(size=32, um_per_px=um_per_px))
    assert index["width"][0] == pytest.approx(edge)
    assert index["x"][0] + edge / 2 == pytest.approx(30)


def test_an_outline_serves_the_other_markers_of_its_set(cohort: Cohort) -> None:
    annotation = outline(cohort.folder, (20, 20, 20, "x"))
    cohort.gray("g.tif", FULL, "IgG", slide="s")
    image = np.zeros((128, 128), np.uint16)
    image[34:86, 34:86] = FULL
    tifffile.imwrite(cohort.folder / "a.tif", image)
    cohort.add("a.tif", "gray", marker="IgA", slide="s")
    cohort.rows[0]["annotation"] = annotation
    assert only(cohort.crop()[0]) == (255, 255, 0)


def problems(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> str:
    crops, index = cohort.crop()
    assert crops.shape == (0, 32, 32, 3)
    assert crops.dtype == np.uint8
    assert list(index.columns) == list(CROPS)
    write_table(cohort.folder / "index.parquet", index, CROPS)
    return capsys.readouterr().out


def test_an_outline_of_another_shape_is_a_problem(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    cohort.gray("g.tif", FULL, "IgG", slide="s", annotation=outline(cohort.folder, (20, 20, 20, "x")))
    tifffile.imwrite(cohort.folder / "a.tif", np.zeros((64, 96), np.uint16))
    cohort.add("a.tif", "gray", marker="IgA", slide="s")
    assert problems(cohort, capsys) == (
        "warning: IM of patient p1 is left out: a.tif: 96 x 64 px is another shape than the annotated image "
        "of its set (64 x 64 px), so that the outline does not fit; annotate each image, or give images of "
        "one field the same shape\n"
    )


def test_as_many_markers_as_channels(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    cohort.multi("a.ome.tif", {"IgG": FULL, "IgA": 0}, marker="IgG;IgA;C3")
    assert problems(cohort, capsys) == (
        "warning: IM image a.ome.tif is left out: a.ome.tif: the column marker of images.csv names 3 markers "
        "(IgG, IgA, C3) but the file has 2 channels (IgG, IgA); name one marker per channel, joined by ';'\n"
    )


@pytest.mark.parametrize(("marker", "shown"), [("kappa", "kappa"), (None, "gray")])
def test_none_of_the_configured_markers(
    cohort: Cohort, capsys: pytest.CaptureFixture[str], marker: str | None, shown: str
) -> None:
    cohort.gray("a.tif", FULL, marker)
    assert problems(cohort, capsys) == (
        "warning: IM of patient p1 is left out: a.tif: shows none of the configured markers "
        f"(IgG, IgA, IgM, C3, C1q) but {shown}; name its markers in the column marker of images.csv, or "
        "change imaging.im.markers (or red, green and blue)\n"
    )


def test_an_image_that_fails_now_is_left_out(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    cohort.multi("a.ome.tif", {"IgG": FULL, "IgA": 0})
    (cohort.folder / "a.ome.tif").write_bytes(b"no")
    assert problems(cohort, capsys).startswith("warning: IM of patient p1 is left out: ")


def test_the_next_set_is_tried(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    cohort.multi("a.ome.tif", {"IgG": FULL, "IgA": 0})
    (cohort.folder / "a.ome.tif").write_bytes(b"no")
    cohort.colour("b.png", (1, 200, 3), None)
    assert only(cohort.crop()[0]) == (2, 255, 6)
    assert capsys.readouterr().out.startswith("warning: IM of patient p1 is left out: ")


def test_a_file_that_changed_since_the_inventory(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    cohort.multi("a.ome.tif", {"IgG": FULL, "IgA": 0}, channels="IgG;IgA;IgM")
    assert problems(cohort, capsys) == (
        "warning: IM of patient p1 is left out: a.ome.tif: has 2 channels now, 3 by the inventory; run the "
        "inventory again\n"
    )


def test_floats_of_unknown_range(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite(cohort.folder / "a.tif", np.full((64, 64), 300.0, np.float32))
    cohort.add("a.tif", "gray", marker="IgG")
    assert problems(cohort, capsys) == (
        "warning: IM of patient p1 is left out: a.tif: its samples are float32 and not all within 0 to 1, so "
        "full brightness is unknown; save it as 8-bit or 16-bit integers\n"
    )


def test_other_modalities_and_excluded_images_are_passed_over(cohort: Cohort) -> None:
    cohort.gray("a.tif", FULL, "IgG", modality="OM")
    cohort.gray("b.tif", FULL, "IgG", status="blank")
    crops, index = cohort.crop()
    assert len(crops) == len(index) == 0


def test_entropy() -> None:
    assert entropy(np.zeros((8, 8), np.uint8)) == 0.0
    assert entropy(np.arange(256, dtype=np.uint8).reshape(16, 16)) == pytest.approx(1.0)


MARKERS = ImCrops(size=32, instances="marker")


def test_a_crop_per_marker_in_the_configured_order(cohort: Cohort) -> None:
    cohort.multi("a.ome.tif", {"C3": FULL, "IgA": FULL // 2, "IgG": 0, "DAPI": FULL})
    crops, index = cohort.crop(MARKERS)
    assert crops[:, 0, 0].tolist() == [[0, 0, 0], [128, 128, 128], [255, 255, 255]]
    assert list(index["crop"]) == ["a#IgG", "a#IgA", "a#C3"]
    assert list(index["information"]) == pytest.approx([1.0, 0.8, 0.4])
    assert list(index["flag"]) == ["dark", "", ""]
    assert list(index["selected"]) == [True, True, True]
    assert list(index["row"]) == [0, 1, 2]
    write_table(cohort.folder / "index.parquet", index, CROPS)
    _, index = cohort.crop(ImCrops(size=32, instances="marker", markers=["C3", "kappa", "IgG"]))
    assert list(index["crop"]) == ["a#C3", "a#IgG"]


def test_files_per_marker_are_an_instance_each(cohort: Cohort) -> None:
    cohort.gray("a.tif", FULL // 4, "anti-IgA", slide="s")
    cohort.gray("g.tif", FULL, "IgG", slide="s")
    cohort.gray("single.tif", FULL // 2, "IgM", patient="p2")
    crops, index = cohort.crop(MARKERS)
    assert crops[:, 0, 0, 0].tolist() == [255, 64, 128]
    assert list(index["crop"]) == ["g#IgG", "a#IgA", "single#IgM"]
    assert list(index["image"]) == ["g", "a", "single"]
    assert list(index["patient"]) == ["p1", "p1", "p2"]


def test_a_composite_of_unnamed_markers_stays_one_crop(cohort: Cohort) -> None:
    cohort.colour("a.png", (100, 30, 7), None)
    crops, index = cohort.crop(MARKERS)
    assert only(crops) == (200, 60, 14)
    assert list(index["crop"]) == ["a#0"]


def test_the_marker_of_a_crop() -> None:
    assert [marker_of(name) for name in ("a#0", "a#IgG", "a#b#C1q")] == [None, "IgG", "C1q"]
