import json
import math
import zipfile

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from roifile import ROI_TYPE, ImagejRoi

from glomflow.config import GlomerulusCrops, Stain
from glomflow.errors import GlomflowError
from glomflow.imaging.annotations import Outline, outlines_of_labels
from glomflow.imaging.crop_store import read_store
from glomflow.imaging.glomeruli import (
    crop_glomeruli_shard,
    information,
    plan_outline,
    plan_whole,
    select_crops,
    write_glomeruli_shard,
)
from glomflow.imaging.stain import StainProfile, normalise
from glomflow.imaging.stain_targets import STANDARD_MACENKO, choose_target, profile_shard, profiles_by_slide
from glomflow.tables import CROPS, STAIN_PROFILES

NO_STAIN = Stain(method="none")
PLAIN = GlomerulusCrops(size=32, um_per_px=1.0, margin=0.25)
NOBODY = {"": StainProfile("none"), "PAS": StainProfile("none"), "HE": StainProfile("none")}


def box(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def outline(left, top, right, bottom, lesion=None):
    return Outline(np.array(box(left, top, right, bottom)[:-1], dtype=float), lesion)


def tissue(height, width, seed=0):
    """PAS-like noise whose red channel tells the column and whose green the row."""
    generator = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = 60 + np.arange(width) % 160
    picture[..., 1] = 60 + (np.arange(height) % 160)[:, None]
    picture[..., 2] = generator.integers(60, 200, (height, width))
    return picture


class Cohort:
    """Builds the sheets and files of a few OM images."""

    def __init__(self, folder):
        self.folder = folder
        self.rows = []

    def add(self, name, picture, *, outlines=(), mask=None, um_per_px=1.0, suffix="tif", **sheet):
        path = f"{name}.{suffix}"
        if suffix == "tif":
            tifffile.imwrite(self.folder / path, picture, photometric="rgb")
        else:
            Image.fromarray(picture).save(self.folder / path)
        annotation = None
        if outlines:
            annotation = f"{name}.geojson"
            features = [
                {
                    "type": "Feature",
                    "geometry": {"type": "Polygon", "coordinates": [ring]},
                    "properties": {"classification": {"name": lesion} if lesion else None},
                }
                for ring, lesion in outlines
            ]
            (self.folder / annotation).write_text(
                json.dumps({"type": "FeatureCollection", "features": features})
            )
        if mask is not None:
            annotation = f"{name}_mask.png"
            Image.fromarray(mask).save(self.folder / annotation)
        row = {"patient": "P1", "slide": name, "stain": "PAS", "kind": "field", "lesion": None, **sheet}
        self.rows.append(
            {
                "image": name,
                "path": path,
                "modality": "OM",
                "annotation": annotation,
                "um": um_per_px,
                "status": "ok",
                **row,
            }
        )
        return self

    @property
    def images(self):
        return pd.DataFrame(self.rows).drop(columns=["um", "status"]).assign(um_per_px=math.nan)

    @property
    def inventory(self):
        frame = pd.DataFrame(self.rows)
        return frame[["image", "patient", "modality", "path", "slide", "status"]].assign(
            um_per_px=frame["um"].astype(float)
        )

    def profiles(self, stain):
        return profile_shard(self.inventory, self.images, self.folder, stain)

    def arguments(self, settings=PLAIN, stain=NO_STAIN):
        profiles = self.profiles(stain)
        targets = choose_target(profiles, self.images, stain, self.folder)
        return self.inventory, self.images, profiles, targets, self.folder, settings, stain

    def crops(self, settings=PLAIN, stain=NO_STAIN):
        return crop_glomeruli_shard(*self.arguments(settings, stain))


@pytest.fixture
def cohort(tmp_path):
    return Cohort(tmp_path)


# --- where crops lie -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edges", "um_per_px", "x", "y", "side", "resolution"),
    [
        ((40, 50, 60, 66), 1.0, 34.0, 42.0, 32.0, 1.0),
        ((40, 50, 60, 66), 0.5, 18.0, 26.0, 64.0, 1.0),
        ((40, 50, 60, 66), 2.0, 35.0, 43.0, 30.0, 1.875),
        ((20, 30, 84, 50), 1.0, 4.0, -8.0, 96.0, 3.0),
    ],
    ids=["fits", "finer image", "coarser image", "too large"],
)
def test_a_crop_is_centred_and_holds_the_margin(edges, um_per_px, x, y, side, resolution):
    plan = plan_outline(outline(*edges), 3, (200, 100), um_per_px, PLAIN)
    assert (plan.x, plan.y, plan.side, plan.um_per_px) == (x, y, side, resolution)
    assert plan.number == 3
    left, top, right, bottom = edges
    assert side >= max(right - left, bottom - top) * 1.5
    assert plan.padded == (y < 0)
    assert not plan.at_border


@pytest.mark.parametrize(
    ("edges", "at_border", "padded", "inside"),
    [
        ((50, 40, 70, 60), False, False, 1.0),
        ((2, 40, 22, 60), False, True, 1.0),
        ((0, 40, 20, 60), True, True, 1.0),
        ((180, 40, 200, 60), True, True, 1.0),
        ((50, 0.5, 70, 20), True, True, 1.0),
        ((50, 90, 70, 110), True, True, 0.5),
    ],
)
def test_border_and_padding(edges, at_border, padded, inside):
    plan = plan_outline(outline(*edges), 0, (200, 100), 1.0, PLAIN)
    assert (plan.at_border, plan.padded, plan.inside) == (at_border, padded, pytest.approx(inside))


@pytest.mark.parametrize(
    ("size", "um_per_px", "x", "y", "side", "resolution"),
    [((64, 64), 0.5, 0.0, 0.0, 64.0, 1.0), ((64, 48), math.nan, 0.0, -8.0, 64.0, math.nan)],
)
def test_a_whole_image_is_padded_to_a_square(size, um_per_px, x, y, side, resolution):
    plan = plan_whole([], size, um_per_px, "a", 32)
    assert (plan.x, plan.y, plan.side) == (x, y, side)
    assert plan.um_per_px == pytest.approx(resolution, nan_ok=True)
    assert plan.padded == (size[0] != size[1])
    assert plan_whole([], size, um_per_px, math.nan, 32).lesion is None


# --- crops ---------------------------------------------------------------------------------------


def test_crops_hold_the_pixels_of_their_outlines(cohort):
    picture = tissue(200, 300)
    cohort.add("a", picture, outlines=[(box(100, 50, 116, 66), "normal"), (box(200, 150, 220, 170), None)])
    crops, table = cohort.crops()
    assert crops.shape == (2, 32, 32, 3)
    assert crops.dtype == np.uint8
    assert np.array_equal(crops[0], picture[42:74, 92:124])
    assert np.array_equal(crops[1], picture[144:176, 194:226])
    assert list(table.columns) == list(CROPS)
    assert table["crop"].tolist() == ["a#0", "a#1"]
    assert table["row"].tolist() == [0, 1]
    assert table[["x", "y", "width", "height"]].to_numpy().tolist() == [[92, 42, 32, 32], [194, 144, 32, 32]]
    assert table["um_per_px"].tolist() == [1.0, 1.0]
    assert table["lesion"].isna().tolist() == [False, True]
    assert table["flag"].tolist() == ["", ""]


def test_a_coarser_crop_shows_the_same_place(cohort):
    picture = np.full((200, 200, 3), 230, np.uint8)
    picture[50:150, 50:150] = (150, 60, 120)
    cohort.add("a", picture, outlines=[(box(50, 50, 150, 150), None)])
    crops, table = cohort.crops(GlomerulusCrops(size=60, um_per_px=1.0, margin=0.1))
    assert table["um_per_px"].tolist() == [2.0]
    inner = (crops[0] == (150, 60, 120)).all(axis=2)
    assert inner[5:55, 5:55].all()
    assert inner.sum() == 2500


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.zip"])
def test_any_annotation_format_gives_the_same_crops(cohort, name):
    cohort.add(
        "a", tissue(200, 300), outlines=[(box(100, 50, 116, 66), None), (box(290, 150, 310, 170), None)]
    )
    crops, table = cohort.crops()
    assert table["flag"].tolist() == ["", "at_border;padded"]
    path = cohort.folder / name
    if name == "a.csv":
        path.write_text(
            "image,x,y,width,height\nother.tif,1,1,9,9\na.tif,100,50,16,16\na.tif,290,150,20,20\n"
        )
    elif name == "a.json":
        shapes = [
            {"label": "", "points": points, "shape_type": "rectangle"}
            for points in ([[100, 50], [116, 66]], [[290, 150], [310, 170]])
        ]
        path.write_text(json.dumps({"shapes": shapes, "imageWidth": 300, "imageHeight": 200}))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for number, (left, top, right, bottom) in enumerate([(100, 50, 116, 66), (290, 150, 310, 170)]):
                roi = ImagejRoi(roitype=ROI_TYPE.RECT, left=left, top=top, right=right, bottom=bottom)
                archive.writestr(f"{number}.roi", roi.tobytes())
    cohort.rows[0]["annotation"] = name
    others, same = cohort.crops()
    assert np.array_equal(crops, others)
    pd.testing.assert_frame_equal(same, table)


def test_found_outlines_serve_images_without_annotation(cohort, capsys):
    cohort.add("a", tissue(200, 300))
    cohort.add("b", tissue(200, 300), outlines=[(box(100, 50, 116, 66), None)])
    cohort.add("c", tissue(200, 300))
    labels = np.zeros((50, 75), np.int32)
    labels[10:15, 20:25] = 1
    labels[40:46, 70:] = 2
    found = [Outline(one.polygon * 4.0) for one in outlines_of_labels(labels)]
    _, table = crop_glomeruli_shard(*cohort.arguments(), found={"a": found, "b": found, "c": []})
    assert table["crop"].tolist() == ["a#0", "a#1", "b#0"]
    assert table["flag"].tolist() == ["", "at_border;padded", ""]
    assert (table["x"][0] + 16, table["y"][0] + 16) == (90, 50)
    assert table["um_per_px"].tolist() == [1.0, 1.125, 1.0]
    assert capsys.readouterr().out == (
        "no glomerulus crops of image 'c': no glomerulus was found in image 'c.tif'\n"
    )


@pytest.mark.parametrize("margin", [0.0, 0.15, 0.5])
def test_the_margin_keeps_what_surrounds_the_outline(margin):
    settings = GlomerulusCrops(size=64, um_per_px=1.0, margin=margin)
    generator = np.random.default_rng(4)
    for _ in range(50):
        left, top = generator.uniform(-20, 900, 2)
        right, bottom = left + generator.uniform(5, 400), top + generator.uniform(5, 400)
        plan = plan_outline(outline(left, top, right, bottom), 0, (1000, 1000), 0.25, settings)
        around = margin * max(right - left, bottom - top) - 1e-9
        assert plan.x <= left - around
        assert plan.y <= top - around
        assert plan.x + plan.side >= right + around
        assert plan.y + plan.side >= bottom + around
        assert plan.um_per_px == pytest.approx(0.25 * plan.side / 64)
        assert plan.um_per_px >= 1.0 - 1e-12


def test_crops_beyond_the_image_are_white_and_flagged(cohort):
    picture = tissue(100, 100)
    cohort.add("a", picture, outlines=[(box(0, 40, 16, 56), None)])
    crops, table = cohort.crops()
    assert (crops[0][:, :8] == 255).all()
    assert np.array_equal(crops[0][:, 8:], picture[32:64, 0:24])
    assert table["flag"].tolist() == ["at_border;padded"]


def test_16_bit_images_are_padded_white(cohort):
    picture = (tissue(100, 100).astype(np.uint16) * 257).astype(np.uint16)
    cohort.add("a", picture, outlines=[(box(0, 40, 16, 56), None)])
    crops, _ = cohort.crops()
    assert (crops[0][:, :8] == 255).all()
    assert np.array_equal(crops[0][:, 8:], tissue(100, 100)[32:64, 0:24])


def test_the_background_is_painted_white_on_demand(cohort):
    picture = tissue(100, 100)
    cohort.add("a", picture, outlines=[([[50, 40], [66, 50], [50, 66], [40, 50]], None)])
    crops, _ = cohort.crops(GlomerulusCrops(size=32, mask_background=True))
    plain, _ = cohort.crops(GlomerulusCrops(size=32))
    painted = (crops[0] == 255).all(axis=2)
    assert np.array_equal(crops[0][~painted], plain[0][~painted])
    assert painted[0].all()
    assert painted[:, 0].all()
    assert not painted[14:18, 14:18].any()
    assert (~painted).sum() == pytest.approx(26 * 26 / 2, abs=30)


def test_crop_images_are_taken_whole_without_distortion(cohort):
    picture = tissue(48, 64)
    mask = np.zeros((48, 64), np.uint8)
    mask[8:40, 16:48] = 255
    cohort.add("a", picture, mask=mask, kind="crop", lesion="sclerotic", um_per_px=math.nan, suffix="png")
    crops, table = cohort.crops(GlomerulusCrops(size=64))
    assert np.array_equal(crops[0][8:56], picture)
    assert (crops[0][:8] == 255).all()
    assert (crops[0][56:] == 255).all()
    assert table["lesion"].tolist() == ["sclerotic"]
    assert table["crop"].tolist() == ["a#0"]
    assert table["flag"].tolist() == ["padded"]
    assert math.isnan(table["um_per_px"][0])
    masked, _ = cohort.crops(GlomerulusCrops(size=64, mask_background=True))
    assert np.array_equal(masked[0][18:46, 18:46], crops[0][18:46, 18:46])
    assert (masked[0][:, :14] == 255).all()


def test_a_damaged_mask_of_a_crop_matters_only_for_masking(cohort, capsys):
    cohort.add(
        "a", tissue(64, 64), mask=np.zeros((64, 64), np.uint8), kind="crop", um_per_px=math.nan, suffix="png"
    )
    assert len(cohort.crops()[1]) == 1
    assert capsys.readouterr().out == ""
    assert cohort.crops(GlomerulusCrops(size=32, mask_background=True))[1].empty
    assert "no glomerulus crops of image 'a': annotation" in capsys.readouterr().out


def test_bad_images_give_no_crop_and_a_line(cohort, capsys):
    good = [(box(40, 40, 56, 56), None)]
    cohort.add("a", tissue(100, 100), outlines=good)
    cohort.add("b", tissue(100, 100), outlines=[(box(140, 40, 156, 56), None)])
    cohort.add("c", tissue(100, 100))
    cohort.add("d", tissue(100, 100), outlines=good, suffix="png")
    cohort.add("e", tissue(100, 100), outlines=good, status="unreadable")
    (cohort.folder / "d.png").write_bytes((cohort.folder / "d.png").read_bytes()[:500])
    _, table = cohort.crops()
    assert table["crop"].tolist() == ["a#0"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "image 'b': annotation" in lines[0]
    assert "outside the image of 100 x 100 px" in lines[0]
    assert "image 'c': image 'c.tif' has no annotation; fill the column 'annotation'" in lines[1]
    assert "image 'd'" in lines[2]


def test_a_shard_without_images_gives_an_empty_store(cohort, tmp_path):
    cohort.add("a", tissue(100, 100), outlines=[(box(40, 40, 56, 56), None)], status="blank")
    crops, table = cohort.crops()
    assert crops.shape == (0, 32, 32, 3)
    assert list(table.columns) == list(CROPS)
    assert write_glomeruli_shard(tmp_path / "0.npy", tmp_path / "0.parquet", *cohort.arguments()) == 0
    assert read_store(tmp_path / "0.npy", tmp_path / "0.parquet")[0].shape == (0, 32, 32, 3)


def test_the_store_equals_the_crops(cohort, tmp_path):
    outlines = [(box(100, 50, 116, 66), "normal"), (box(200, 150, 220, 170), None)]
    cohort.add("a", tissue(200, 300), outlines=outlines).add("b", tissue(200, 300, 1), outlines=outlines)
    crops, table = cohort.crops()
    count = write_glomeruli_shard(tmp_path / "0.npy", tmp_path / "0.parquet", *cohort.arguments())
    stored, index = read_store(tmp_path / "0.npy", tmp_path / "0.parquet")
    assert count == 4
    assert np.array_equal(stored, crops)
    assert index["crop"].tolist() == table["crop"].tolist()
    assert index["information"].tolist() == table["information"].tolist()


# --- stain ---------------------------------------------------------------------------------------


def two_stains(size, seed=0):
    generator = np.random.default_rng(seed)
    amounts = generator.uniform(0.2, 1.2, (size, size, 2))
    amounts[:, ::3, 0] = 0
    amounts[::3, :, 1] = 0
    vectors = np.array([[0.62, 0.70, 0.35], [0.18, 0.92, 0.36]])
    return np.clip(np.rint(235 * np.exp(-amounts @ vectors)), 0, 255).astype(np.uint8)


def test_crops_are_normalised_by_the_profile_of_their_slide(cohort):
    stain = Stain(um_per_px=1.0)
    outlines = [(box(40, 40, 56, 56), None)]
    cohort.add("a", two_stains(120), outlines=outlines).add("b", two_stains(120, 1), outlines=outlines)
    crops, table = cohort.crops(stain=stain)
    plain, _ = cohort.crops()
    assert table["flag"].tolist() == ["", ""]
    assert np.abs(crops.astype(int) - plain).mean() > 5
    source = profiles_by_slide(cohort.profiles(stain))["b"]
    assert np.array_equal(crops[1], normalise(plain[1], source, STANDARD_MACENKO["PAS"]))


@pytest.mark.parametrize(
    ("picture", "stain_name"),
    [(np.full((120, 120, 3), 245, np.uint8), "PAS"), (two_stains(120), "IHC"), (two_stains(120), None)],
    ids=["blank slide", "no standard", "unknown stain"],
)
def test_what_cannot_be_normalised_passes_with_a_flag(cohort, picture, stain_name):
    cohort.add("a", picture, outlines=[(box(40, 40, 56, 56), None)], stain=stain_name)
    crops, table = cohort.crops(stain=Stain(um_per_px=1.0))
    assert table["flag"].tolist() == ["stain_unchanged"]
    assert np.array_equal(crops[0], picture[32:64, 32:64])
    assert cohort.crops()[1]["flag"].tolist() == [""]


def test_a_slide_without_profile_is_an_error(cohort):
    cohort.add("a", tissue(100, 100), outlines=[(box(40, 40, 56, 56), None)])
    empty = pd.DataFrame({column: [] for column in STAIN_PROFILES})
    with pytest.raises(GlomflowError, match="slide 'a' has no stain profile; delete the stain profiles and"):
        crop_glomeruli_shard(cohort.inventory, cohort.images, empty, NOBODY, cohort.folder, PLAIN, NO_STAIN)


# --- information and choice ----------------------------------------------------------------------


def score(picture, mask=None):
    everything = np.ones(picture.shape[:2], bool)
    return information(picture, everything if mask is None else mask, (240.0, 240.0, 240.0), 0.15)


def test_information_ranks_structure_above_scars_blur_and_emptiness():
    from scipy.ndimage import gaussian_filter

    structured = two_stains(64)
    blurred = gaussian_filter(structured, (2, 2, 0))
    scar = np.full((64, 64, 3), (150, 60, 120), np.uint8)
    torn = np.full((64, 64, 3), 240, np.uint8)
    torn[:4] = structured[:4]
    assert score(structured) > score(blurred) > score(scar) == 0.0
    assert score(structured) > 2 * score(torn) > 0
    assert score(np.full((64, 64, 3), 255, np.uint8)) == 0.0
    assert score(structured, np.zeros((64, 64), bool)) == 0.0


def test_information_looks_at_the_outline_only():
    picture = np.full((64, 64, 3), (150, 60, 120), np.uint8)
    picture[:, 32:] = two_stains(64)[:, 32:]
    left = np.zeros((64, 64), bool)
    left[:, :30] = True
    assert score(picture, left) == 0.0
    assert score(picture, ~left) > 0.1


def test_a_cut_glomerulus_scores_less(cohort):
    picture = np.tile(two_stains(40), (5, 5, 1))
    cohort.add("a", picture, outlines=[(box(80, 80, 100, 100), None), (box(80, -10, 100, 10), None)])
    scores = cohort.crops()[1]["information"]
    assert scores[1] < 0.7 * scores[0]


def table_of(*rows):
    return pd.DataFrame(rows, columns=["patient", "crop", "lesion", "information"])


@pytest.mark.parametrize(
    ("instances", "selected"),
    [
        (1, [False, True, False, False, False, True, True]),
        (2, [False, True, True, False, True, True, True]),
    ],
)
def test_selection(instances, selected):
    table = table_of(
        ("A", "a#0", "globally_sclerotic", 0.9),
        ("A", "a#1", "normal", 0.5),
        ("A", "a#2", None, 0.4),
        ("A", "a#3", "normal", 0.3),
        ("B", "b#0", "globally_sclerotic", 0.1),
        ("B", "b#1", "globally_sclerotic", 0.2),
        ("C", "c#0", None, 0.0),
    )
    assert select_crops(table, GlomerulusCrops(max_instances=instances)).tolist() == selected


def test_equal_scores_are_chosen_by_name():
    table = table_of(("A", "a#1", None, 0.5), ("A", "a#0", None, 0.5))
    assert select_crops(table, GlomerulusCrops()).tolist() == [False, True]


def test_selection_does_not_look_at_labels(cohort):
    outlines = [(box(40, 40, 56, 56), None), (box(70, 70, 86, 86), None)]
    cohort.add("a", two_stains(120), outlines=[(ring, "normal") for ring, _ in outlines])
    cohort.add("b", two_stains(120), outlines=[(ring, "crescentic") for ring, _ in outlines], patient="P2")
    table = cohort.crops()[1]
    assert table["information"].tolist()[:2] == table["information"].tolist()[2:]
    assert table["selected"].tolist()[:2] == table["selected"].tolist()[2:]
    assert table["selected"].sum() == 2
