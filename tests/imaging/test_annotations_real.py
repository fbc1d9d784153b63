"""Annotations of real renal images: outlines, masks, and the crops that they give."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from glomflow.config import GlomerulusCrops, Stain
from glomflow.errors import ImageError
from glomflow.imaging.annotations import convert_annotations, polygon_area, read_outlines, share_inside
from glomflow.imaging.glomeruli import crop_glomeruli_shard, plan_outline
from glomflow.imaging.stain_targets import choose_target, profile_shard

FIELDS = {1: 7, 2: 6, 3: 6, 4: 7, 5: 9}
"""Outlined glomeruli of the immunohistochemistry fields, 1920 x 1018 px."""


def filled(outline, size):
    picture = Image.new("1", size)
    ImageDraw.Draw(picture).polygon([tuple(point) for point in outline.polygon.tolist()], fill=1)
    return np.asarray(picture)


@pytest.mark.parametrize(("number", "count"), FIELDS.items())
def test_region_sets_of_kidney_fields(real_data, number, count):
    folder = real_data / "ihc_rois"
    outlines = read_outlines(folder / f"RoiSetR22C{number}.zip", image_size=(1920, 1018))
    assert len(outlines) == count
    picture = np.asarray(Image.open(folder / f"R22_VEGF_2_15.0xC{number}.jpg").convert("L"))
    assert picture.shape == (1018, 1920)
    dark = picture < 150
    for outline in outlines:
        # A rat's glomerulus is some 100 µm wide, 150 px in these fields (the bar of 100 µm is 149 px).
        assert 10_000 < polygon_area(outline.polygon) < 30_000
        assert share_inside(outline, (1920, 1018)) == 1.0
        # Glomeruli are full of nuclei, tubules are not.
        assert dark[filled(outline, (1920, 1018))].mean() > 1.5 * dark.mean()
        assert outline.lesion is None
        assert not outline.is_box


def test_the_first_region_by_its_numbers(real_data):
    outline = read_outlines(real_data / "ihc_rois" / "RoiSetR22C1.zip", image_size=(1920, 1018))[0]
    assert outline.name == "0075-1108"
    assert outline.polygon.shape == (169, 2)
    assert outline.box == (1036.0, 4.0, 1181.0, 146.0)


def test_glomeruli_cut_by_the_border_of_real_fields(real_data):
    cut = []
    for number in FIELDS:
        path = real_data / "ihc_rois" / f"RoiSetR22C{number}.zip"
        for place, outline in enumerate(read_outlines(path, image_size=(1920, 1018))):
            if plan_outline(outline, place, (1920, 1018), 0.671, GlomerulusCrops()).at_border:
                cut.append((number, outline.name))
    assert cut == [(1, "0936-1239"), (4, "0935-1477")]


def test_crops_of_a_region_set(real_data):
    folder = real_data / "ihc_rois"
    row = {
        "image": "c1",
        "patient": "p",
        "modality": "OM",
        "path": "R22_VEGF_2_15.0xC1.jpg",
        "slide": "s",
        "status": "ok",
        "stain": None,
        "annotation": "RoiSetR22C1.zip",
        "kind": "field",
        "lesion": None,
        "um_per_px": 0.671,
    }
    images = pd.DataFrame([row])
    inventory = images.drop(columns=["stain", "annotation", "kind", "lesion"])
    stain = Stain(method="none")
    profiles = profile_shard(inventory, images, folder, stain)
    targets = choose_target(profiles, images, stain, folder)
    crops, index = crop_glomeruli_shard(
        inventory, images, profiles, targets, folder, GlomerulusCrops(), stain
    )
    assert crops.shape == (7, 224, 224, 3)
    assert index["um_per_px"].tolist() == [1.0] * 7
    assert index["flag"].tolist().count("at_border;padded") == 1
    whole = index[~index["flag"].str.contains("at_border")]
    outlines = read_outlines(folder / "RoiSetR22C1.zip", image_size=(1920, 1018))
    for crop in whole.itertuples():
        left, top, right, bottom = outlines[int(crop.crop.split("#")[1])].box
        margin = 0.15 * max(right - left, bottom - top)
        assert crop.x <= left - margin
        assert crop.y <= top - margin
        assert crop.x + crop.width >= right + margin
        assert crop.y + crop.height >= bottom + margin


def test_a_region_set_becomes_geojson(real_data, tmp_path):
    folder = real_data / "ihc_rois"
    out = tmp_path / "c5.geojson"
    line = convert_annotations(folder / "RoiSetR22C5.zip", folder / "R22_VEGF_2_15.0xC5.jpg", out)
    assert line == f"wrote 9 outlines to {out}"
    before = read_outlines(folder / "RoiSetR22C5.zip", image_size=(1920, 1018))
    after = read_outlines(out, image_size=(1920, 1018))
    assert [one.name for one in after] == [one.name for one in before]
    assert all(np.array_equal(one.polygon, other.polygon) for one, other in zip(before, after, strict=True))


def test_masks_of_single_glomeruli(real_data):
    for path in sorted((real_data / "pas_glomeruli" / "masks").glob("*.png"))[::10]:
        (outline,) = read_outlines(path, image_size=(224, 224))
        left, top, right, bottom = outline.box
        assert min(right - left, bottom - top) > 60


HUBMAP = {
    "2f6ecfcdf_10red16": 10,
    "2f6ecfcdf_11red16": 8,
    "2f6ecfcdf_12red16": 2,
    "2f6ecfcdf_16red16": 3,
    "2f6ecfcdf_3red16": 0,
    "2f6ecfcdf_9red16": 4,
    "8242609fa_1red16": 4,
    "8242609fa_2red16": 4,
    "8242609fa_3red16": 1,
    "8242609fa_4red16": 9,
    "8242609fa_5red16": 0,
    "8242609fa_6red16": 0,
}
"""Glomeruli in the masks of whole fields."""
STRUCTURES = {
    "2_0_capsule": {"he": 8, "pas": 9, "sil": 7, "tri": 12},
    "3_0_tuft": {"he": 7, "pas": 9, "sil": 8, "tri": 10},
}
"""Structures in five masks of each stain."""


def test_masks_of_whole_fields(real_data):
    counts = {}
    for path in sorted((real_data / "hubmap_tiles" / "masks").glob("*.png")):
        counts[path.stem] = 0
        if HUBMAP[path.stem]:
            counts[path.stem] = len(read_outlines(path, image_size=(256, 256)))
            continue
        with pytest.raises(ImageError, match=f"{path.name}' is empty: every pixel is 0; outline at"):
            read_outlines(path, image_size=(256, 256))
    assert counts == HUBMAP


@pytest.mark.parametrize("structure", STRUCTURES)
def test_masks_of_capsules_and_tufts(real_data, structure):
    counts = {}
    for stain in ("he", "pas", "sil", "tri"):
        paths = sorted((real_data / "structures" / structure / stain).glob("*_mask_*.png"))
        assert len(paths) == 5
        counts[stain] = 0
        for path in paths:
            outlines = read_outlines(path, image_size=(256, 256))
            counts[stain] += len(outlines)
            # The parts together are the mask, but for the holes, which outlines fill.
            areas = sum(polygon_area(outline.polygon) for outline in outlines)
            mask = np.asarray(Image.open(path))[:, :, 0] > 0
            assert areas == pytest.approx(mask.sum(), rel=0.005)
            assert {outline.name for outline in outlines} == {None}
    assert counts == STRUCTURES[structure]
