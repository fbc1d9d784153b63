"""Silver is no dye: what unmixing does to it, and the gentle default that takes its place."""

import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glomflow.config import GlomerulusCrops, Stain
from glomflow.imaging.glomeruli import crop_glomeruli_shard
from glomflow.imaging.stain import StainProfile, estimate_profile, normalise, rgb_to_lab, tissue_mask
from glomflow.imaging.stain_standards import STANDARD_MACENKO, THREE_DYES
from glomflow.imaging.stain_targets import choose_target, profile_shard
from glomflow.imaging.stain_white import NO_MIXING, standard_white, white_profile

METHODS = ["macenko", "reinhard", "vahadane"]
COUNTERSTAIN = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])


def silver(white=(230.0, 220.0, 225.0), size=96, seed=0):
    """A counterstained section with black fibres (every sixth column) and a strip of glass."""
    generator = np.random.default_rng(seed)
    amounts = generator.uniform(0.2, 0.9, (size, size, 2))
    amounts[: size // 8] = 0
    image = np.array(white) * np.exp(-amounts @ COUNTERSTAIN) - 1
    fibres = np.zeros((size, size), bool)
    fibres[size // 8 :, ::6] = True
    image[fibres] = generator.uniform(4, 12, (fibres.sum(), 1))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), fibres


def chroma(rgb):
    lab = rgb_to_lab(rgb)
    return np.hypot(lab[..., 1], lab[..., 2])


@pytest.mark.parametrize("method", METHODS)
def test_the_standard_of_silver_is_one_white_level(method):
    image, fibres = silver()
    settings = Stain(method=method)
    target = choose_target(
        pd.DataFrame(), pd.DataFrame({"modality": ["OM"], "stain": ["Jones"]}), settings, None
    )["PASM"]
    assert target == standard_white("PASM", settings)
    source = white_profile(image, settings, "S")
    result = normalise(image, source, target)
    assert source.background == (229.0, 219.0, 224.0)
    glass = result[:12].astype(int)
    assert np.abs(glass - 240).max() <= 1
    assert chroma(result[fibres]).max() < 4
    assert rgb_to_lab(result[fibres])[:, 0].max() < 6


def test_light_is_scaled_channel_by_channel():
    image, _ = silver()
    settings = Stain()
    source = white_profile(image, settings)
    result = normalise(image, source, standard_white("PASM", settings))
    expected = (image + 1.0) * (240.0 / np.array(source.background)) - 1
    assert np.abs(result - np.clip(expected, 0, 255)).max() <= 0.51


def test_two_stains_turn_black_fibres_into_coloured_ones():
    """Why silver is not unmixed: if this failed, the default would have lost its reason."""
    image, fibres = silver()
    result = normalise(image, estimate_profile(image, Stain()), STANDARD_MACENKO["HE"])
    assert chroma(image[fibres]).mean() < 3
    assert chroma(result[fibres]).mean() > 10


def test_two_scanners_agree_on_silver_after_it():
    settings = Stain()
    pictures = [silver(white)[0] for white in ((230.0, 220.0, 225.0), (246.0, 244.0, 235.0))]
    target = standard_white("PASM", settings)
    results = [normalise(image, white_profile(image, settings), target).astype(int) for image in pictures]
    tissue = tissue_mask(pictures[0], (230.0, 220.0, 225.0), 0.15) & (pictures[0].max(axis=2) > 20)
    before = np.abs(pictures[0].astype(int) - pictures[1])[tissue].mean()
    after = np.abs(results[0] - results[1])[tissue].mean()
    assert before > 5
    assert after < 0.2 * before


@pytest.mark.parametrize("level", [150, 199])
def test_without_glass_the_white_level_is_not_told(level):
    image = np.full((40, 40, 3), level, np.uint8)
    image[::2] = 60
    profile = white_profile(image, Stain(), "S1")
    assert profile.flag == "too little glass to tell the white level"
    assert profile.matrix is None
    assert profile.slide == "S1"
    assert normalise(image, profile, standard_white("PASM", Stain())) is image


def test_glass_at_the_published_level_counts_as_glass():
    image, _ = silver(white=(241.0, 241.0, 241.0))
    profile = white_profile(image, Stain())
    assert (profile.flag, profile.background) == ("", (240.0, 240.0, 240.0))


@pytest.fixture
def cohort(tmp_path):
    """Two silver slides and one of HE."""
    pictures = [silver()[0], silver((246.0, 244.0, 235.0), seed=1)[0], silver(seed=2)[0]]
    for number, image in enumerate(pictures):
        Image.fromarray(image).save(tmp_path / f"i{number}.png")
    names = [f"i{number}" for number in range(3)]
    images = pd.DataFrame(
        {
            "image": names,
            "patient": ["P0", "P1", "P2"],
            "modality": "OM",
            "path": [f"{name}.png" for name in names],
            "slide": ["S0", "S1", "S2"],
            "stain": ["PASM", "Jones silver", "HE"],
            "um_per_px": math.nan,
            "annotation": None,
            "kind": "crop",
            "lesion": None,
        }
    )
    inventory = images.drop(columns=["stain", "annotation", "kind", "lesion"]).assign(status="ok")
    return tmp_path, images, inventory


def cut(cohort, settings):
    folder, images, inventory = cohort
    profiles = profile_shard(inventory, images, folder, settings)
    targets = choose_target(profiles, images, settings, folder)
    crops = GlomerulusCrops(size=96)
    return crop_glomeruli_shard(inventory, images, profiles, targets, folder, crops, settings), targets


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
@pytest.mark.parametrize("target", ["standard", "cohort_median"])
def test_silver_slides_of_a_cohort_keep_their_black(cohort, method, target):
    (crops, table), targets = cut(cohort, Stain(method=method, target=target))
    assert table["flag"].tolist() == ["", "", ""]
    assert targets["PASM"].matrix == NO_MIXING
    assert targets["HE"].matrix != NO_MIXING
    _, fibres = silver()
    assert chroma(crops[0][fibres]).max() < 4
    expected = 240 if target == "standard" else (229 + 245) / 2
    assert abs(float(np.median(crops[0][:12, :, 0])) - expected) <= 1


def test_a_silver_reference_gives_its_white_level(cohort):
    folder, images, inventory = cohort
    settings = Stain(target="reference", reference="i1.png")
    targets = choose_target(profile_shard(inventory, images, folder, settings), images, settings, folder)
    assert targets["PASM"].matrix == NO_MIXING
    assert targets["PASM"].background == (245.0, 243.0, 234.0)
    assert targets["HE"].flag == "the reference image is of stain 'PASM', not 'HE'"


def test_silver_can_be_unmixed_on_request(cohort):
    folder, images, inventory = cohort
    settings = Stain(white_only=[], target="cohort_median")
    profiles = profile_shard(inventory, images, folder, settings)
    assert choose_target(profiles, images, settings, folder)["PASM"].stains == 2
    flag = choose_target(profiles, images, Stain(white_only=[]), folder)["PASM"].flag
    assert flag.startswith("there is no published standard for stain PASM (only for HE, PAS and TRICHROME)")


def test_three_dyes_take_silver_out_of_the_white_level(cohort):
    folder, images, inventory = cohort
    settings = Stain(three_dyes=["Jones"], target="cohort_median")
    profiles = profile_shard(inventory, images, folder, settings)
    targets = choose_target(profiles, images, settings, folder)
    assert (targets["PASM"].stains, targets["HE"].stains) == (3, 2)
    assert targets["PASM"].matrix != NO_MIXING


# --- real sections -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sections(real_data):
    paths = sorted((real_data / "structures" / "2_0_capsule" / "sil").glob("im_*_0.png"))
    paths.append(real_data / "stains" / "kidney_03_jones_silver.png")
    return [np.asarray(Image.open(path).convert("RGB"))[:512, :512] for path in paths]


def effect(before, after):
    """SSIM of L*, mean hue shift of coloured tissue in degrees, chroma gained by black fibres."""
    from skimage.metrics import structural_similarity

    one, two = rgb_to_lab(before), rgb_to_lab(after)
    similarity = structural_similarity(one[..., 0], two[..., 0], data_range=100)
    strength = [np.hypot(lab[..., 1], lab[..., 2]) for lab in (one, two)]
    coloured = (strength[0] > 8) & (strength[1] > 4) & (one[..., 0] < 80)
    turn = np.arctan2(two[..., 2], two[..., 1]) - np.arctan2(one[..., 2], one[..., 1])
    hue = np.degrees(np.abs(np.angle(np.exp(1j * turn[coloured])))).mean()
    dark = one[..., 0] < 15
    return similarity, hue, float((strength[1] - strength[0])[dark].mean())


def test_real_silver_is_hurt_by_unmixing_and_not_by_its_white_level(sections):
    gentle, harsh = [], []
    for image in sections:
        settings = Stain()
        unmixed = normalise(image, estimate_profile(image, settings), STANDARD_MACENKO["HE"])
        harsh.append(effect(image, unmixed))
        source: StainProfile = white_profile(image, settings)
        assert source.flag == ""
        gentle.append(effect(image, normalise(image, source, standard_white("PASM", settings))))
    similarity, hue, gained = np.array(gentle).T
    assert similarity.min() > 0.98
    assert hue.max() < 6
    assert np.abs(gained).max() < 4
    similarity, hue, gained = np.array(harsh).T
    assert similarity.mean() < 0.9
    assert hue.mean() > 10
    assert gained.mean() > 8


def test_two_stains_cannot_even_hold_the_colours_of_real_silver(sections, real_data):
    """Unmixed and put together again with its own profile, silver changes hue, HE does not."""
    stained = np.asarray(Image.open(real_data / "stains" / "kidney_01_he.png").convert("RGB"))[:512, :512]

    def error(image):
        profile = estimate_profile(image, Stain())
        return effect(image, normalise(image, profile, profile))[1]

    assert np.mean([error(image) for image in sections]) > 3 * error(stained)


def test_three_dyes_keep_the_black_of_real_silver_and_bring_slides_together(sections):
    settings = Stain(three_dyes=["PASM"])
    profiles = [estimate_profile(image, settings, stains=3, initial=THREE_DYES["PASM"]) for image in sections]
    assert [profile.flag for profile in profiles] == [""] * len(sections)
    after = [
        normalise(image, profile, profiles[0]) for image, profile in zip(sections, profiles, strict=True)
    ]
    similarity, _, gained = np.array([effect(*pair) for pair in zip(sections, after, strict=True)]).T
    assert similarity.min() > 0.94
    assert np.abs(gained).mean() < 4

    def distance(images):
        colours = np.array([rgb_to_lab(image[image.min(axis=2) < 180]).mean(axis=0) for image in images])
        return np.linalg.norm(colours[:, None] - colours[None], axis=2).mean()

    assert distance(after) < 0.75 * distance(sections)
