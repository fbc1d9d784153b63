"""Profiles of a cohort's slides, and the targets chosen for them."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glomflow.config import Stain
from glomflow.errors import GlomflowError
from glomflow.imaging import stain_targets
from glomflow.imaging.stain import (
    estimate_profile,
    normalise,
)
from glomflow.imaging.stain_targets import (
    STANDARD_MACENKO,
    choose_target,
    profile_from_row,
    profile_row,
    profile_shard,
    profiles_by_slide,
    stain_key,
    target_for,
)
from glomflow.tables import STAIN_PROFILES, read_table, write_table
from imaging.stain_pictures import ODD, two_stains

MACENKO = Stain()


def settings(method):
    return Stain(method=method)


@pytest.mark.parametrize("method", ["macenko", "reinhard", "none"])
@pytest.mark.parametrize("picture", [two_stains(), ODD["blank"]], ids=["tissue", "blank"])
def test_a_profile_survives_its_table(tmp_path, method, picture):
    profile = estimate_profile(picture, settings(method), "S1")
    write_table(tmp_path / "p.parquet", pd.DataFrame([profile_row(profile)]), STAIN_PROFILES)
    table = read_table(tmp_path / "p.parquet", STAIN_PROFILES)
    assert profile_from_row(table.to_dict("records")[0]) == profile


@pytest.mark.parametrize(
    ("stain", "key"),
    [
        ("PAS", "PAS"),
        ("pas", "PAS"),
        ("H&E", "HE"),
        (" he ", "HE"),
        ("Jones_silver", "PASM"),
        ("PASM", "PASM"),
        ("Trichrome", "TRICHROME"),
        (None, ""),
        (math.nan, ""),
        ("", ""),
    ],
)
def test_stain_key(stain, key):
    assert stain_key(stain) == key


@pytest.fixture
def cohort(tmp_path):
    """Five images of four slides; S2 is blank."""
    rows = [
        ("a", "S1", "HE", two_stains()),
        ("b", "S1", "HE", two_stains(seed=1)),
        ("c", "S2", "HE", ODD["blank"]),
        ("d", "S3", "HE", two_stains(strength=1.3)),
        ("e", "S4", None, two_stains(strength=0.8)),
    ]
    for name, _, _, picture in rows:
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    images = pd.DataFrame(
        {
            "image": [row[0] for row in rows],
            "modality": "OM",
            "path": [f"{row[0]}.png" for row in rows],
            "slide": [row[1] for row in rows],
            "stain": [row[2] for row in rows],
            "um_per_px": math.nan,
        }
    )
    inventory = images.drop(columns="stain").assign(status="ok", um_per_px=2.0)
    return tmp_path, images, inventory


def test_profile_shard_pools_the_images_of_a_slide(cohort):
    folder, images, inventory = cohort
    close = Stain(um_per_px=2.0)
    table = profile_shard(inventory, images, folder, close)
    assert table["slide"].tolist() == ["S1", "S2", "S3", "S4"]
    pooled = np.concatenate([two_stains(seed=seed).reshape(-1, 3) for seed in (0, 1)])
    assert profiles_by_slide(table)["S1"] == estimate_profile(pooled, close, "S1")
    assert table["flag"].tolist() == ["", "0 tissue pixels, 200 are needed", "", ""]
    write_table(folder / "stain.parquet", table, STAIN_PROFILES)


def test_profile_shard_reads_at_the_stated_resolution(cohort):
    folder, images, inventory = cohort
    full = profile_shard(inventory, images, folder, Stain(um_per_px=1.0))["tissue_pixels"]
    half = profile_shard(inventory, images, folder, Stain(um_per_px=4.0))["tissue_pixels"]
    assert full[0] / half[0] == pytest.approx(4, rel=0.1)
    unknown = profile_shard(inventory.assign(um_per_px=math.nan), images, folder, Stain(um_per_px=4.0))
    assert unknown["tissue_pixels"].tolist() == full.tolist()


def test_a_large_slide_is_sampled_by_patches_of_its_tissue(tmp_path, monkeypatch):
    large = np.full((600, 900, 3), 245, np.uint8)
    large[300:, 450:] = np.tile(two_stains(), (4, 5, 1))[:300, :450]
    Image.fromarray(large).save(tmp_path / "a.png")
    images = pd.DataFrame({"image": ["a"], "stain": ["HE"]})
    inventory = pd.DataFrame(
        {"image": ["a"], "modality": "OM", "path": "a.png", "slide": "S", "status": "ok", "um_per_px": 1.0}
    )
    whole = profile_shard(inventory, images, tmp_path, Stain(um_per_px=1.0))
    monkeypatch.setattr(stain_targets, "PATCH", 64)
    monkeypatch.setattr(stain_targets, "SLIDE_PIXELS", 64 * 64 * 10)
    sampled = profile_shard(inventory, images, tmp_path, Stain(um_per_px=1.0))
    assert 5000 < sampled["tissue_pixels"][0] < 64 * 64 * 10
    found = [json.loads(table["matrix"][0]) for table in (whole, sampled)]
    assert np.allclose(found[0], found[1], atol=0.02)


def test_profile_shard_skips_unusable_images(cohort, capsys):
    folder, images, inventory = cohort
    inventory.loc[0, "status"] = "unreadable"
    inventory.loc[3, "modality"] = "TEM"
    (folder / "e.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    table = profile_shard(inventory, images, folder, MACENKO)
    assert table["slide"].tolist() == ["S1", "S2", "S4"]
    assert table["flag"].tolist()[2] == "no image of the slide could be read"
    assert "stain profile of slide 'S4': image left out:" in capsys.readouterr().out


def test_a_slide_of_two_stains_is_flagged(cohort):
    folder, images, inventory = cohort
    images.loc[1, "stain"] = "PAS"
    table = profile_shard(inventory, images, folder, MACENKO)
    assert table["flag"][0] == (
        "images of different stains (HE and PAS); give each stain its own slide in images.csv"
    )


def test_profile_shard_without_images_or_method(cohort):
    folder, images, inventory = cohort
    assert profile_shard(inventory[:0], images[:0], folder, MACENKO).empty
    none = profile_shard(inventory, images, folder, settings("none"))
    assert none["method"].tolist() == ["none"] * 4


def test_standard_targets(cohort):
    folder, images, _ = cohort
    images.loc[3, "stain"] = "Sirius red"
    empty = pd.DataFrame({column: [] for column in STAIN_PROFILES})
    targets = choose_target(empty, images, MACENKO, folder)
    assert sorted(targets) == ["", "HE", "SIRIUS RED"]
    assert targets["HE"] == STANDARD_MACENKO["HE"]
    assert "fill the column 'stain' of images.csv (HE or PAS)" in targets[""].flag
    assert "no published standard for stain SIRIUS RED (only for HE, PAS and " in targets["SIRIUS RED"].flag
    assert target_for(targets, "h&e") is targets["HE"]
    picture = two_stains()
    assert normalise(picture, estimate_profile(picture, MACENKO), targets["SIRIUS RED"]) is picture


def test_a_stain_without_target_is_an_error():
    with pytest.raises(GlomflowError, match=r"no stain target was chosen for stain 'PAS', only for \['HE'\]"):
        target_for({"HE": STANDARD_MACENKO["HE"]}, "PAS")


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_cohort_median(cohort, method):
    folder, images, inventory = cohort
    chosen = Stain(method=method, target="cohort_median", um_per_px=2.0)
    table = profile_shard(inventory, images, folder, chosen)
    targets = choose_target(table, images, chosen, folder)
    by_slide = profiles_by_slide(table)
    pair = [by_slide["S1"], by_slide["S3"]]
    assert targets["HE"].flag == ""
    assert targets["HE"].tissue_pixels == sum(profile.tissue_pixels for profile in pair)
    if method == "macenko":
        mean = np.mean([profile.concentrations for profile in pair], axis=0)
        assert targets["HE"].concentrations == pytest.approx(mean)
        assert np.linalg.norm(targets["HE"].matrix, axis=1) == pytest.approx([1, 1])
    else:
        mean = np.mean([profile.lab_mean for profile in pair], axis=0)
        assert targets["HE"].lab_mean == pytest.approx(mean)
    blank = choose_target(table[table["slide"] == "S2"], images, chosen, folder)
    assert blank["HE"].flag == "no slide of stain 'HE' has a usable profile"


def test_reference(cohort):
    folder, images, inventory = cohort
    chosen = Stain(target="reference", reference="d.png")
    table = profile_shard(inventory, images, folder, chosen)
    targets = choose_target(table, images, chosen, folder)
    assert targets["HE"].slide == "reference d.png"
    assert targets["HE"].flag == ""
    assert targets[""].flag == "the reference image is of stain 'HE', not ''"
    outside = choose_target(table, images, Stain(target="reference", reference=str(folder / "d.png")), folder)
    assert outside[""].flag == ""


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("absent.png", "imaging.stain.reference 'absent.png' cannot be used: .*absent.png.*; name an image"),
        ("c.png", "imaging.stain.reference 'c.png' gives no stain profile: 0 tissue pixels, 200 are needed"),
    ],
)
def test_an_unusable_reference_is_an_error(cohort, reference, message):
    folder, images, inventory = cohort
    chosen = Stain(target="reference", reference=reference)
    with pytest.raises(GlomflowError, match=message):
        choose_target(profile_shard(inventory, images, folder, chosen), images, chosen, folder)
