"""Stain normalisation and crops on real kidney sections."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glomflow.config import GlomerulusCrops, Stain
from glomflow.imaging.glomeruli import crop_glomeruli_shard
from glomflow.imaging.stain import (
    PUBLISHED_BACKGROUND,
    estimate_background,
    estimate_profile,
    normalise,
    normalise_image,
    rgb_to_lab,
    tissue_mask,
)
from glomflow.imaging.stain_targets import STANDARD_MACENKO, choose_target, profile_shard

ALL = GlomerulusCrops(size=224)


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def fields(real_data):
    """The middle of each field, 500 x 500."""
    return {path.stem: read(path)[250:750, 250:750] for path in sorted((real_data / "stains").glob("*.png"))}


@pytest.fixture(scope="module")
def sheets(real_data):
    """The cohort folder and the tables of five crops of each slide."""
    folder = real_data / "pas_glomeruli"
    labels = pd.read_csv(folder / "labels.csv").groupby("slide").head(5)
    images = pd.DataFrame(
        {
            "image": [Path(path).stem for path in labels["image"]],
            "patient": labels["slide"],
            "modality": "OM",
            "path": labels["image"],
            "slide": labels["slide"],
            "stain": labels["stain"],
            "um_per_px": math.nan,
            "annotation": labels["mask"],
            "kind": "crop",
            "lesion": labels["label"],
        }
    )
    return folder, images, images.drop(columns=["stain", "annotation", "kind", "lesion"]).assign(status="ok")


def cut(sheets, stain, settings=ALL):
    folder, images, inventory = sheets
    profiles = profile_shard(inventory, images, folder, stain)
    targets = choose_target(profiles, images, stain, folder)
    return crop_glomeruli_shard(inventory, images, profiles, targets, folder, settings, stain)


def slide_colours(crops, table):
    """Mean L*, a*, b* of each slide's tissue."""
    means = []
    for _, members in table.groupby("slide"):
        pixels = crops[members.index].reshape(-1, 3)
        tissue = pixels[tissue_mask(pixels, estimate_background(pixels), 0.15)]
        means.append(rgb_to_lab(tissue).mean(axis=0))
    return np.array(means)


def spread(colours):
    """Mean CIELAB distance between slides, and the standard deviation of their hue in degrees."""
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    hue = np.degrees(np.arctan2(colours[:, 2], colours[:, 1]))
    return distances[np.triu_indices(len(colours), 1)].mean(), hue.std(ddof=1)


@pytest.fixture(scope="module")
def scanned(sheets):
    return cut(sheets, Stain(method="none"))


@pytest.mark.parametrize(
    ("method", "target", "distance", "hue"),
    [
        ("macenko", "standard", 0.45, 0.6),
        ("macenko", "cohort_median", 0.55, 0.6),
        ("reinhard", "standard", 0.45, 0.3),
        ("reinhard", "cohort_median", 0.35, 0.2),
    ],
)
def test_slides_come_closer_in_colour(sheets, scanned, method, target, distance, hue):
    before = spread(slide_colours(*scanned))
    crops, table = cut(sheets, Stain(method=method, target=target))
    after = spread(slide_colours(crops, table))
    assert (table["flag"] == "").all()
    assert after[0] < distance * before[0]
    assert after[1] < hue * before[1]


def test_information_ranks_open_glomeruli_above_scars(scanned):
    """The score sees no label; that it agrees with the labels is what it is for."""
    _, table = scanned
    scarred = table["lesion"] == "global_sclerosis"
    above = table["information"][~scarred].to_numpy()[:, None] > table["information"][scarred].to_numpy()
    assert above.mean() > 0.85


def test_masks_of_crops_paint_their_background(sheets, scanned):
    plain, _ = scanned
    masked, table = cut(sheets, Stain(method="none"), GlomerulusCrops(mask_background=True))
    assert len(table) == 50
    kept = (masked == plain).all(axis=3)
    assert 0.2 < kept.mean() < 0.9
    assert (masked[~kept] == 255).all()


@pytest.mark.parametrize("name", ["kidney_01_he", "kidney_02_pas"])
def test_macenko_agrees_with_torchstain(fields, name):
    macenko = pytest.importorskip("torchstain.numpy.normalizers.macenko")
    picture = fields[name]
    profile = estimate_profile(picture, Stain(), background=PUBLISHED_BACKGROUND, concentrations_over="image")
    peer = macenko.NumpyMacenkoNormalizer()
    peer.fit(picture)
    assert np.abs(np.array(profile.matrix).T - peer.HERef).max() < 1e-4
    assert np.abs(np.array(profile.concentrations) - peer.maxCRef).max() < 1e-4
    theirs = macenko.NumpyMacenkoNormalizer().normalize(picture, stains=False)[0].astype(int)
    ours = normalise(picture, profile, STANDARD_MACENKO["HE"]).astype(int)
    assert set(np.unique(theirs - ours)) <= {0, 1}


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_every_stain_has_a_profile_and_survives(fields, method):
    for name, picture in fields.items():
        stain = Stain(method=method)
        source = estimate_profile(picture, stain)
        assert source.flag == "", name
        image = pd.DataFrame({"modality": ["OM"], "stain": ["HE"]})
        target = choose_target(pd.DataFrame(), image, stain, Path())["HE"]
        result = normalise(picture, source, target)
        glass = picture.min(axis=2) > 235
        assert result[glass].mean() > 215, name
        assert 0.6 < result.mean() / picture.mean() < 1.5, name


def test_small_tiles_of_a_field_never_fail(fields):
    picture = fields["kidney_01_he"]
    target = STANDARD_MACENKO["HE"]
    with np.errstate(all="raise", under="ignore"):
        for top in range(0, 500, 50):
            for left in range(0, 500, 50):
                tile = picture[top : top + 20, left : left + 20]
                result, profile = normalise_image(tile, target, Stain(min_tissue_pixels=20))
                assert np.array_equal(result, tile) if profile.flag else result.shape == tile.shape


def test_profiles_hardly_depend_on_the_share_of_glass(fields):
    picture = fields["kidney_02_pas"]
    framed = np.full((1000, 1000, 3), np.array(estimate_background(picture), np.uint8))
    framed[250:750, 250:750] = picture
    plain, more = (estimate_profile(image, Stain(), background=(240.0,) * 3) for image in (picture, framed))
    assert plain.matrix == more.matrix
    assert plain.concentrations == more.concentrations
