"""Targets: fixed, fitted on training patients, or taken from reference images; crops recoloured to them."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glomflow.config import Stain
from glomflow.config_check import load_config
from glomflow.errors import ConfigError, GlomflowError
from glomflow.imaging import stain_recolour
from glomflow.imaging.crop_store import read_store
from glomflow.imaging.stain import (
    PUBLISHED_BACKGROUND,
    StainProfile,
    estimate_profile,
    normalise,
    rgb_to_lab,
)
from glomflow.imaging.stain_standards import number_of_dyes, standard_target
from glomflow.imaging.stain_targets import (
    STANDARD_MACENKO,
    STANDARD_REINHARD,
    STANDARD_VAHADANE,
    choose_target,
    fit_target,
    profile_from_row,
    profile_row,
    profile_shard,
    profiles_by_slide,
    renormalise_store,
    stain_key,
    write_renormalised_store,
)
from glomflow.tables import CROPS, STAIN_PROFILES, read_table, write_table

VECTORS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
FOLDS = Stain(target="training_folds")


def picture(seed=0, strength=1.0, vectors=VECTORS, size=64, white=245.0):
    """Two stains, pure and mixed, with an eighth of glass."""
    generator = np.random.default_rng(seed)
    amounts = generator.uniform(0.3, 1.5, (size, size, 2)) * strength
    amounts[:, : size // 4, 0] = 0
    amounts[:, size // 4 : size // 2, 1] = 0
    amounts[: size // 8] = 0
    return np.clip(np.rint(white * np.exp(-amounts @ vectors) - 1), 0, 255).astype(np.uint8)


BLANK = np.full((64, 64, 3), 250, np.uint8)


class Cohort:
    """One slide and one image per patient P0, P1, ..., in ``folder``."""

    def __init__(self, folder, pictures, stains):
        self.folder = folder
        names = [f"i{number}" for number in range(len(pictures))]
        for name, image in zip(names, pictures, strict=True):
            Image.fromarray(image).save(folder / f"{name}.png")
        self.images = pd.DataFrame(
            {
                "image": names,
                "patient": [f"P{number}" for number in range(len(pictures))],
                "modality": "OM",
                "path": [f"{name}.png" for name in names],
                "slide": [f"S{number}" for number in range(len(pictures))],
                "stain": stains,
                "um_per_px": math.nan,
            }
        )
        self.inventory = self.images.drop(columns="stain").assign(status="ok", um_per_px=1.0)

    def profiles(self, settings=FOLDS):
        return profile_shard(self.inventory, self.images, self.folder, settings)

    def fit(self, patients, settings=FOLDS):
        return fit_target(self.profiles(settings), self.images, settings, self.folder, patients=patients)


@pytest.fixture
def cohort(tmp_path):
    """Three HE slides of rising strength, one of silver and one PAS slide."""
    pictures = [picture(seed, strength) for seed, strength in enumerate((0.7, 0.9, 1.1, 1.0, 1.0))]
    return Cohort(tmp_path, pictures, ["HE", "HE", "HE", "PASM", "PAS"])


# --- training folds ------------------------------------------------------------------------------


def test_only_training_patients_enter(cohort):
    by_slide = profiles_by_slide(cohort.profiles())
    targets = cohort.fit({"P0", "P2", "P4"})
    assert sorted(targets) == ["HE", "PAS", "PASM"]
    mean = np.mean([by_slide[slide].concentrations for slide in ("S0", "S2")], axis=0)
    assert targets["HE"].concentrations == pytest.approx(mean)
    assert targets["HE"].slide == "training median HE"
    assert targets["PAS"].concentrations == pytest.approx(by_slide["S4"].concentrations)
    profiles = cohort.profiles()
    changed = profiles.copy()
    changed.loc[changed["slide"] == "S1", "concentrations"] = "[9.0, 9.0]"
    fits = [
        fit_target(table, cohort.images, FOLDS, cohort.folder, patients={"P0", "P2"})["HE"]
        for table in (profiles, changed)
    ]
    assert fits[0] == fits[1]


def test_a_stain_without_a_training_slide_passes_through_flagged(cohort):
    targets = cohort.fit({"P0"})
    assert targets["HE"].flag == ""
    assert targets["PAS"].flag == "no slide of stain 'PAS' has a usable profile"
    assert targets["PASM"].flag == "no slide of stain 'PASM' has a usable profile"
    image = picture()
    assert normalise(image, profiles_by_slide(cohort.profiles())["S3"], targets["PASM"]) is image


def test_no_usable_training_slide_is_an_error(tmp_path):
    cohort = Cohort(tmp_path, [BLANK, picture()], ["HE", "HE"])
    expected = (
        "imaging.stain.target: training_folds: none of the 1 training patients has a slide with a usable "
        "stain profile; look at the flags"
    )
    with pytest.raises(GlomflowError, match=expected):
        cohort.fit({"P0"})
    assert cohort.fit({"P0", "P1"})["HE"].flag == ""


def test_training_folds_want_patients(cohort):
    with pytest.raises(GlomflowError, match="training_folds needs the training patients of a fold"):
        cohort.fit(None)
    with pytest.raises(GlomflowError, match="training_folds needs the training patients of a fold"):
        choose_target(cohort.profiles(), cohort.images, FOLDS, cohort.folder)


def test_fixed_targets_do_not_depend_on_patients(cohort):
    for settings in (Stain(), Stain(target="reference", reference="i1.png"), Stain(method="none")):
        assert cohort.fit({"P0"}, settings) == cohort.fit(None, settings)


def test_a_cohort_median_can_be_narrowed_too(cohort):
    settings = Stain(target="cohort_median")
    assert cohort.fit({"P0"}, settings)["HE"].concentrations != pytest.approx(
        cohort.fit(None, settings)["HE"].concentrations
    )


# --- fixed targets -------------------------------------------------------------------------------


def test_standards_have_unit_vectors_and_a_usable_condition():
    assert list(STANDARD_MACENKO) == list(STANDARD_VAHADANE) == list(STANDARD_REINHARD)
    assert list(STANDARD_MACENKO) == ["HE", "PAS", "TRICHROME"]
    for profile in (*STANDARD_MACENKO.values(), *STANDARD_VAHADANE.values()):
        assert np.linalg.norm(profile.matrix, axis=1) == pytest.approx([1, 1], abs=0.02)
        assert np.linalg.cond(profile.matrix) < 10
        assert profile.background == PUBLISHED_BACKGROUND


@pytest.mark.parametrize("method", ["macenko", "vahadane", "reinhard"])
@pytest.mark.parametrize("stain", ["HE", "PAS", "TRICHROME"])
def test_each_method_has_its_own_standards(method, stain):
    target = standard_target(stain, Stain(method=method))
    assert (target.method, target.slide, target.flag) == (method, f"standard {stain}", "")


def test_vahadanes_own_standard_keeps_structure_better_than_macenkos(real_data):
    from skimage.metrics import structural_similarity

    folder = real_data / "pas_glomeruli"
    paths = pd.read_csv(folder / "labels.csv").groupby("slide")["image"].first()
    settings = Stain(method="vahadane")
    targets = standard_target("PAS", settings), replace(STANDARD_MACENKO["PAS"], method="vahadane")
    kept = []
    for path in paths:
        image = np.asarray(Image.open(folder / path).convert("RGB"))
        source = estimate_profile(image, settings)
        pictures = [
            rgb_to_lab(rgb)[..., 0] for rgb in (image, *(normalise(image, source, t) for t in targets))
        ]
        kept.append([structural_similarity(pictures[0], other, data_range=100) for other in pictures[1:]])
    own, macenkos = np.mean(kept, axis=0)
    assert own > 0.95
    assert own > macenkos + 0.03


@pytest.mark.parametrize("name", ["Trichrome", "masson", "Masson's trichrome", "Masson-Goldner"])
def test_trichrome_goes_by_many_names(name):
    assert stain_key(name) == "TRICHROME"
    target = standard_target(stain_key(name), Stain())
    assert target.matrix == ((0.799511, 0.591352, 0.105287), (0.099972, 0.737386, 0.668033))


def test_three_dyes_have_no_standard():
    settings = Stain(three_dyes=["Masson"])
    assert number_of_dyes("TRICHROME", settings) == 3
    assert number_of_dyes("HE", settings) == 2
    flag = standard_target("TRICHROME", settings).flag
    assert flag.startswith("there is no published standard of three dyes for stain TRICHROME; take it out of")
    assert standard_target("TRICHROME", settings.model_copy(update={"method": "reinhard"})).flag == ""


def test_stains_without_a_standard_are_flagged():
    flag = standard_target("SIRIUS RED", Stain()).flag
    assert flag.startswith(
        "there is no published standard for stain SIRIUS RED (only for HE, PAS and TRICHROME); set"
    )


# --- reference images ----------------------------------------------------------------------------


def test_references_of_one_stain_are_averaged(cohort):
    settings = Stain(target="reference", references=["i0.png", "i2.png", "i4.png"])
    targets = cohort.fit(None, settings)
    members = [estimate_profile(picture(seed, strength), settings) for seed, strength in ((0, 0.7), (2, 1.1))]
    assert targets["HE"].slide == "reference i0.png, i2.png"
    assert targets["HE"].concentrations == pytest.approx(
        np.mean([member.concentrations for member in members], axis=0)
    )
    matrix = np.mean([member.matrix for member in members], axis=0)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    assert np.allclose(targets["HE"].matrix, matrix)
    assert targets["PAS"].slide == "reference i4.png"
    assert targets["PASM"].flag == "the reference images are of stain 'HE' and 'PAS', not 'PASM'"


def test_references_by_reinhard_average_colour_statistics(cohort):
    settings = Stain(method="reinhard", target="reference", references=["i0.png", "i2.png"])
    members = [estimate_profile(picture(seed, strength), settings) for seed, strength in ((0, 0.7), (2, 1.1))]
    target = cohort.fit(None, settings)["HE"]
    assert target.lab_mean == pytest.approx(np.mean([member.lab_mean for member in members], axis=0))
    assert target.matrix is None


def test_one_reference_in_the_list_is_that_reference(cohort):
    one = cohort.fit(None, Stain(target="reference", reference="i1.png"))
    assert cohort.fit(None, Stain(target="reference", references=["i1.png"])) == one


def test_a_bad_reference_among_several_is_named(cohort):
    Image.fromarray(BLANK).save(cohort.folder / "blank.png")
    settings = Stain(target="reference", references=["i0.png", "blank.png"])
    with pytest.raises(GlomflowError, match=r"reference 'blank.png' gives no stain profile: 0 tissue pixels"):
        cohort.fit(None, settings)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"target": "reference"}, "imaging.stain.reference is needed with target: reference"),
        (
            {"target": "reference", "reference": "a.png", "references": ["b.png"]},
            "both reference and references are given; name one image as reference",
        ),
        (
            {"target": "reference", "references": ["a.png", "a.png"]},
            "imaging.stain.references names an image twice; keep one of them",
        ),
    ],
)
def test_references_of_the_configuration(keys, message):
    with pytest.raises(ConfigError, match=message):
        load_config({"imaging": {"stain": keys}})


def test_three_dyes_are_unmixed_in_one_order(tmp_path):
    """Red, blue and their iron haematoxylin, whichever of them a slide shows most of."""
    dyes = np.array([[0.80, 0.59, 0.11], [0.10, 0.74, 0.67], [0.70, 0.50, 0.52]])
    dyes /= np.linalg.norm(dyes, axis=1, keepdims=True)
    pictures = []
    for seed in range(2):
        generator = np.random.default_rng(seed)
        amounts = generator.dirichlet([0.3, 0.3, 0.3], (80, 80)) * generator.uniform(1.8, 3.0, (80, 80, 1))
        amounts[:10] = 0
        amounts = amounts * [(1.2, 0.9, 1.0), (0.9, 1.2, 1.0)][seed]
        pictures.append(np.rint(245 * np.exp(-amounts @ dyes) - 1).astype(np.uint8))
    cohort = Cohort(tmp_path, pictures, ["Masson", "Masson"])
    settings = Stain(target="cohort_median", three_dyes=["Trichrome"])
    profiles = profiles_by_slide(cohort.profiles(settings))
    target = cohort.fit(None, settings)["TRICHROME"]
    for profile in (*profiles.values(), target):
        assert profile.flag == ""
        assert np.allclose(profile.matrix, dyes, atol=0.06)
    assert (normalise(pictures[0], profiles["S0"], target) != pictures[0]).any()


# --- rows of three stains ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
@pytest.mark.parametrize("stains", [2, 3])
def test_profiles_of_two_and_three_stains_survive_their_table(tmp_path, method, stains):
    rows = ((0.8, 0.59, 0.1), (0.1, 0.74, 0.67), (0.6, 0.7, 0.4))[:stains]
    profile = StainProfile(
        method, "S", matrix=rows, concentrations=(1.0, 2.0, 0.5)[:stains], background=(240.0, 241.0, 239.5)
    )
    write_table(tmp_path / "p.parquet", pd.DataFrame([profile_row(profile)]), STAIN_PROFILES)
    table = read_table(tmp_path / "p.parquet", STAIN_PROFILES)
    assert json.loads(table["matrix"][0]) == [list(row) for row in rows]
    assert profile_from_row(table.to_dict("records")[0]) == profile


# --- crops recoloured to a fold's targets ---------------------------------------------------------


def stored(cohort, slides):
    """Crops as scanned: two of each slide, the second one noted as padded."""
    crops, rows = [], []
    for number in slides:
        for half in range(2):
            crops.append(picture(number)[32 * half : 32 * half + 32, :32])
            row = dict.fromkeys(CROPS, math.nan) | {
                "crop": f"i{number}#{half}",
                "patient": f"P{number}",
                "image": f"i{number}",
                "slide": f"S{number}",
                "modality": "OM",
                "lesion": None,
                "selected": True,
                "flag": "padded" if half else "",
            }
            rows.append(row)
    index = pd.DataFrame(rows, columns=list(CROPS))
    index["row"] = np.arange(len(index))
    return np.stack(crops), index


@pytest.fixture
def fold(cohort):
    profiles, patients = cohort.profiles(), {"P0", "P1", "P4"}
    return profiles, fit_target(profiles, cohort.images, FOLDS, cohort.folder, patients=patients)


def test_crops_are_recoloured_as_when_they_are_cut(cohort, fold):
    crops, index = stored(cohort, [2, 0, 3, 4])
    before = crops.copy()
    recoloured, table = renormalise_store(crops, index, *fold, cohort.images)
    by_slide = profiles_by_slide(fold[0])
    stains = dict(zip(cohort.images["slide"], cohort.images["stain"], strict=True))
    for crop, result, slide in zip(crops, recoloured, index["slide"], strict=True):
        assert np.array_equal(result, normalise(crop, by_slide[slide], fold[1][stains[slide]]))
    assert (recoloured[0] != crops[0]).any()
    assert np.array_equal(recoloured[4:6], crops[4:6])
    unchanged = ["stain_unchanged", "stain_unchanged;padded"]
    assert table["flag"].tolist() == ["", "padded", "", "padded", *unchanged, "", "padded"]
    assert np.array_equal(crops, before)
    assert index["flag"].tolist() == ["", "padded"] * 4


def test_recoloured_stores_are_written_piece_by_piece(cohort, fold, tmp_path, monkeypatch):
    monkeypatch.setattr(stain_recolour, "CHUNK", 1)
    crops, index = stored(cohort, [0, 1, 2])
    whole, table = renormalise_store(crops, index, *fold, cohort.images)
    paths = tmp_path / "c.npy", tmp_path / "c.parquet"
    write_renormalised_store(*paths, crops, index, *fold, cohort.images)
    written, read = read_store(*paths)
    assert np.array_equal(written, whole)
    assert read["flag"].tolist() == table["flag"].tolist()


def test_an_empty_store_stays_empty(cohort, fold, tmp_path):
    crops, index = stored(cohort, [0])
    paths = tmp_path / "c.npy", tmp_path / "c.parquet"
    write_renormalised_store(*paths, crops[:0], index[:0], *fold, cohort.images)
    written, read = read_store(*paths)
    assert written.shape == (0, 32, 32, 3)
    assert read.empty


def test_painted_backgrounds_stay_white_on_request(cohort, fold):
    crops, index = stored(cohort, [2])
    crops[:, :8] = 255
    plain, _ = renormalise_store(crops, index, *fold, cohort.images)
    kept, _ = renormalise_store(crops, index, *fold, cohort.images, keep_white=True)
    assert (plain[:, :8] < 255).any()
    assert (kept[:, :8] == 255).all()
    assert np.array_equal(plain[:, 8:], kept[:, 8:])


def test_a_note_of_an_earlier_run_is_not_kept(cohort, fold):
    crops, index = stored(cohort, [0])
    index["flag"] = ["stain_unchanged", "stain_unchanged;at_border"]
    _, table = renormalise_store(crops, index, *fold, cohort.images)
    assert table["flag"].tolist() == ["", "at_border"]


def test_what_does_not_fit_together_is_an_error(cohort, fold):
    profiles, targets = fold
    crops, index = stored(cohort, [0])
    with pytest.raises(GlomflowError, match="slide 'S0' has no stain profile; delete the stain profiles"):
        renormalise_store(crops, index, profiles[profiles["slide"] != "S0"], targets, cohort.images)
    with pytest.raises(GlomflowError, match="image 'i0' of a crop is not in the sheet; delete the crops"):
        renormalise_store(crops, index, profiles, targets, cohort.images[1:])
    with pytest.raises(GlomflowError, match=r"no stain target was chosen for stain 'HE', only for \['PAS'\]"):
        renormalise_store(crops, index, profiles, {"PAS": targets["PAS"]}, cohort.images)
