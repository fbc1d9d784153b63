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
    PUBLISHED_BACKGROUND,
    StainProfile,
    estimate_background,
    estimate_profile,
    normalise,
    normalise_image,
    optical_density,
    rgb_to_lab,
    tissue_mask,
)
from glomflow.imaging.stain_targets import (
    STANDARD_MACENKO,
    STANDARD_REINHARD,
    choose_target,
    profile_from_row,
    profile_row,
    profile_shard,
    profiles_by_slide,
    stain_key,
    target_for,
)
from glomflow.tables import STAIN_PROFILES, read_table, write_table

MACENKO = Stain()
REINHARD = Stain(method="reinhard")
TARGETS = {"macenko": STANDARD_MACENKO["HE"], "reinhard": STANDARD_REINHARD["HE"]}
VECTORS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


def two_stains(vectors=VECTORS, size=(96, 96), white=240.0, seed=0, strength=1.0):
    """A picture of two stains with known vectors: pure, mixed and stain-free pixels."""
    generator = np.random.default_rng(seed)
    amounts = generator.uniform(0.3, 1.5, (*size, 2)) * strength
    amounts[:, : size[1] // 4, 0] = 0
    amounts[:, size[1] // 4 : size[1] // 2, 1] = 0
    amounts[: size[0] // 8] = 0
    return np.clip(np.rint(white * np.exp(-amounts @ vectors) - 1), 0, 255).astype(np.uint8)


def settings(method):
    return Stain(method=method)


# --- estimation ---------------------------------------------------------------------------------


def test_macenko_finds_the_vectors_that_a_picture_was_made_with():
    picture = two_stains(np.array([[0.65, 0.70, 0.29], [0.27, 0.75, 0.60]]))
    profile = estimate_profile(picture, MACENKO, "S1", background=(240.0,) * 3)
    assert profile.flag == ""
    assert profile.slide == "S1"
    expected = np.array([[0.65, 0.70, 0.29], [0.27, 0.75, 0.60]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(profile.matrix, expected, atol=0.02)


def test_haematoxylin_comes_first_whatever_the_axes_signs():
    for seed in range(5):
        profile = estimate_profile(two_stains(seed=seed), MACENKO)
        assert profile.matrix[0][0] > profile.matrix[1][0]


@pytest.mark.parametrize(
    ("vectors", "seed"), [(VECTORS, 1), (np.array([[0.71, 0.65, 0.27], [0.4, 0.85, 0.33]]), 2)]
)
def test_macenko_agrees_with_torchstain(vectors, seed):
    macenko = pytest.importorskip("torchstain.numpy.normalizers.macenko")
    picture = two_stains(vectors, seed=seed)
    profile = estimate_profile(picture, MACENKO, background=PUBLISHED_BACKGROUND, concentrations_over="image")
    peer = macenko.NumpyMacenkoNormalizer()
    peer.fit(picture, Io=240, alpha=1, beta=0.15)
    assert np.allclose(np.array(profile.matrix).T, peer.HERef, atol=1e-5)
    assert np.allclose(profile.concentrations, peer.maxCRef, atol=1e-5)
    theirs = macenko.NumpyMacenkoNormalizer().normalize(picture, stains=False)[0].astype(int)
    ours = normalise(picture, profile, STANDARD_MACENKO["HE"]).astype(int)
    # torchstain adds 1 to the samples, does not take it off again, and truncates.
    assert set(np.unique(theirs - ours)) <= {0, 1}


@pytest.mark.parametrize(
    ("level", "share", "expected"),
    [
        ((250, 248, 246), 0.5, (250.0, 248.0, 246.0)),
        ((250, 248, 246), 0.0, (240.0, 240.0, 240.0)),
        ((250, 248, 246), 0.001, (240.0, 240.0, 240.0)),
        ((255, 255, 200), 0.5, (240.0, 240.0, 240.0)),
        ((190, 190, 190), 0.5, (240.0, 240.0, 240.0)),
    ],
    ids=["glass", "none", "too little", "coloured", "too dark"],
)
def test_background(level, share, expected):
    picture = np.full((100, 100, 3), (150, 90, 140), np.uint8)
    picture.reshape(-1, 3)[: int(share * 10000)] = level
    assert estimate_background(picture) == expected


def test_optical_density_is_minus_the_logarithm_of_transmission():
    density = optical_density(np.array([[[239, 119, 0]]], np.uint8), (240.0, 240.0, 240.0))
    assert density[0, 0].tolist() == pytest.approx([0.0, math.log(2), math.log(240)], abs=1e-6)
    assert density.dtype == np.float32


def test_black_borders_are_no_tissue():
    picture = two_stains()
    bordered = np.zeros((160, 160, 3), np.uint8)
    bordered[32:128, 32:128] = picture
    assert not tissue_mask(bordered, PUBLISHED_BACKGROUND, 0.15)[:32].any()
    plain = estimate_profile(picture, MACENKO, background=PUBLISHED_BACKGROUND)
    framed = estimate_profile(bordered, MACENKO, background=PUBLISHED_BACKGROUND)
    assert framed.matrix == plain.matrix
    assert framed.concentrations == plain.concentrations


def test_reinhard_measures_lab_over_tissue():
    from skimage.color import rgb2lab

    picture = two_stains()
    profile = estimate_profile(picture, REINHARD)
    tissue = picture[tissue_mask(picture, profile.background, 0.15)]
    expected = rgb2lab(tissue[None])[0]
    assert profile.lab_mean == pytest.approx(expected.mean(axis=0), abs=0.02)
    assert profile.lab_std == pytest.approx(expected.std(axis=0), abs=0.02)
    assert profile.tissue_pixels == len(tissue)


def test_lab_agrees_with_scikit_image():
    from skimage.color import rgb2lab

    picture = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    assert np.abs(rgb_to_lab(picture) - rgb2lab(picture)).max() < 0.02


# --- what passes through unchanged ---------------------------------------------------------------


def noisy_flat():
    noise = np.random.default_rng(0).normal((180, 120, 170), 2, (64, 64, 3))
    return np.clip(noise, 0, 255).astype(np.uint8)


def nearly_empty(tissue_pixels):
    picture = np.full((64, 64, 3), 245, np.uint8)
    picture.reshape(-1, 3)[:tissue_pixels] = two_stains().reshape(-1, 3)[-tissue_pixels:]
    return picture


def two_colours():
    picture = np.full((64, 64, 3), (120, 60, 110), np.uint8)
    picture[::2] = (180, 120, 170)
    return picture


def grey_ramp():
    ramp = np.random.default_rng(3).integers(20, 200, (64, 64, 1))
    jitter = np.random.default_rng(4).integers(0, 6, (64, 64, 3))
    return (ramp + jitter).astype(np.uint8)


ODD = {
    "blank": np.full((64, 64, 3), 255, np.uint8),
    "glass": np.full((64, 64, 3), 243, np.uint8),
    "black": np.zeros((64, 64, 3), np.uint8),
    "flat": np.full((64, 64, 3), (150, 80, 140), np.uint8),
    "flat with noise": noisy_flat(),
    "two colours": two_colours(),
    "5 tissue pixels": nearly_empty(5),
    "199 tissue pixels": nearly_empty(199),
    "one white pixel": np.full((1, 1, 3), 255, np.uint8),
    "one tissue pixel": np.full((1, 1, 3), (150, 80, 140), np.uint8),
}


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
@pytest.mark.parametrize("name", [name for name in ODD if name != "two colours"])
def test_tiles_without_a_profile_pass_unchanged_with_a_flag(name, method):
    picture = ODD[name]
    result, profile = normalise_image(picture, TARGETS[method], settings(method))
    assert profile.flag
    assert np.array_equal(result, picture)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
@pytest.mark.parametrize("name", list(ODD))
def test_no_tile_is_blackened_by_the_profile_of_its_slide(name, method):
    picture = ODD[name]
    source = estimate_profile(two_stains(white=245.0), settings(method))
    with np.errstate(all="raise", under="ignore"):
        result = normalise(picture, source, TARGETS[method])
    assert result.dtype == np.uint8
    assert result.shape == picture.shape
    if name != "black":
        assert result.mean() > 0.5 * picture.mean()
    if name in ("blank", "glass", "one white pixel"):
        assert result.min() >= 225


@pytest.mark.parametrize(
    ("picture", "flag"),
    [
        (ODD["5 tissue pixels"], "5 tissue pixels, 200 are needed"),
        (ODD["flat"], "tissue has one colour only; two stains cannot be told apart"),
        (ODD["two colours"], "tissue has one colour only; two stains cannot be told apart"),
        (grey_ramp(), "stain vectors are collinear (condition number"),
    ],
    ids=["too little", "flat", "two colours", "collinear"],
)
def test_macenko_flags_name_the_reason(picture, flag):
    profile = estimate_profile(picture, MACENKO, background=(240.0,) * 3)
    assert profile.flag.startswith(flag)
    assert profile.matrix is None
    assert profile.concentrations is None


def test_a_stain_that_is_nearly_absent_is_flagged():
    # The second stain is weak over the image, though tissue shows both.
    picture = two_stains()
    pale = np.full((1200, 1200, 3), 239, np.uint8)
    pale[:96, :96] = picture
    profile = estimate_profile(pale, MACENKO, background=PUBLISHED_BACKGROUND, concentrations_over="image")
    assert profile.flag.startswith("a stain is nearly absent (99th percentile concentration")


def test_reinhard_flags_one_colour():
    flag = estimate_profile(ODD["flat"], REINHARD).flag
    assert flag == "tissue has one colour only (standard deviation 0.00 to 0.00 in CIELAB)"


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_random_tiles_never_fail(method):
    generator = np.random.default_rng(11)
    with np.errstate(all="raise", under="ignore"):
        for trial in range(60):
            shape = (*generator.integers(1, 40, 2), 3)
            low, high = np.sort(generator.integers(0, 257, 2))
            picture = generator.integers(low, max(high, low + 1), shape).astype(np.uint8)
            tissue = Stain(method=method, min_tissue_pixels=1 + trial % 3)
            result, profile = normalise_image(picture, TARGETS[method], tissue)
            assert result.shape == picture.shape
            if profile.flag:
                assert np.array_equal(result, picture)


# --- application ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_the_own_profile_as_target_changes_nothing(method):
    picture = two_stains()
    source = estimate_profile(picture, settings(method), background=(240.0,) * 3)
    result = normalise(picture, source, source)
    assert np.abs(result.astype(int) - picture).max() <= 1


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_two_scanners_agree_after_normalisation(method):
    other = np.array([[0.55, 0.75, 0.37], [0.22, 0.88, 0.42]])
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    pictures = [two_stains(), two_stains(other, white=225.0, strength=1.4)]
    tissue = tissue_mask(pictures[0], PUBLISHED_BACKGROUND, 0.3)
    before = rgb_to_lab(pictures[0][tissue]).mean(0) - rgb_to_lab(pictures[1][tissue]).mean(0)
    results = [normalise_image(picture, TARGETS[method], settings(method))[0] for picture in pictures]
    after = rgb_to_lab(results[0][tissue]).mean(0) - rgb_to_lab(results[1][tissue]).mean(0)
    assert np.linalg.norm(after) < 0.25 * np.linalg.norm(before)


def test_macenko_gives_the_target_profile():
    picture = two_stains(strength=0.7, white=250.0)
    result, _ = normalise_image(picture, STANDARD_MACENKO["HE"], MACENKO)
    profile = estimate_profile(result, MACENKO, background=PUBLISHED_BACKGROUND)
    assert np.allclose(profile.matrix, STANDARD_MACENKO["HE"].matrix, atol=0.03)
    assert profile.concentrations == pytest.approx(STANDARD_MACENKO["HE"].concentrations, rel=0.05)


def test_reinhard_gives_the_target_profile_and_leaves_glass_alone():
    picture = two_stains(white=245.0)
    result, source = normalise_image(picture, STANDARD_REINHARD["HE"], REINHARD)
    lab = rgb_to_lab(result[tissue_mask(picture, source.background, 0.15)])
    assert lab.mean(axis=0).tolist() == pytest.approx(STANDARD_REINHARD["HE"].lab_mean, abs=2.5)
    assert np.abs(result[:12].astype(int) - picture[:12]).max() <= 1


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_a_batch_equals_its_images(method):
    pictures = np.stack([two_stains(seed=seed) for seed in range(3)]).reshape(3, 1, 96, 96, 3)
    source = estimate_profile(pictures[0, 0], settings(method))
    batch = normalise(pictures, source, TARGETS[method])
    single = [normalise(picture, source, TARGETS[method]) for picture in pictures[:, 0]]
    assert np.array_equal(batch[:, 0], np.stack(single))
    assert normalise(pictures[:0], source, TARGETS[method]).shape == (0, 1, 96, 96, 3)


def test_none_returns_the_picture_itself():
    picture = two_stains()
    none = estimate_profile(picture, settings("none"), "S1")
    assert none == StainProfile("none", "S1")
    assert normalise(picture, none, StainProfile("none")) is picture


@pytest.mark.parametrize(
    "picture",
    [np.zeros((10, 10, 4), np.uint8), np.zeros((10, 10, 3), np.uint16), np.zeros((10, 10), np.uint8)],
    ids=["RGBA", "16 bit", "grey"],
)
def test_other_pictures_are_refused_with_what_is_expected(picture):
    expected = (
        rf"expects 8-bit RGB, uint8 of shape \(\.\.\., 3\), not {picture.dtype} of shape .*as_rgb_uint8"
    )
    with pytest.raises(GlomflowError, match=expected):
        normalise(picture, StainProfile("macenko"), STANDARD_MACENKO["HE"])
    with pytest.raises(GlomflowError, match=expected):
        estimate_profile(picture, MACENKO)


def test_profiles_of_two_methods_are_refused():
    with pytest.raises(GlomflowError, match="slide 'S1' is macenko, the target reinhard; delete"):
        normalise(two_stains(), StainProfile("macenko", "S1"), STANDARD_REINHARD["HE"])


# --- rows, shards and targets --------------------------------------------------------------------


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
