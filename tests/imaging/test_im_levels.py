"""Levels by site: sites come together, diagnoses stay apart, negatives stay dark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from glomflow.errors import GlomflowError
from glomflow.imaging.im_levels import CHANNELS, apply_site_levels, fit_site_levels
from glomflow.tables import SITE_LEVELS, read_table, write_table

PER_CELL = 15
EXPOSURE = {"north": 1.0, "south": 0.6}


def crop(generator: np.random.Generator, red: float, green: float, blue: float) -> np.ndarray:
    """Deposits of a given brightness in three channels, over faint haze."""
    levels = []
    for level in (red, green, blue):
        field = gaussian_filter(generator.standard_normal((48, 48)), 1.5)
        deposits = np.clip(field / np.percentile(field, 99) - 0.3, 0, 1) / 0.7
        levels.append(0.03 + level * deposits)
    return np.rint(np.clip(np.stack(levels, axis=2), 0, 1) * 255).astype(np.uint8)


class TwoSites:
    """Two diagnoses at two sites; in the south everything is exposed less."""

    def __init__(self, seed: int = 1) -> None:
        generator = np.random.default_rng(seed)
        crops, rows = [], []
        for site, exposure in EXPOSURE.items():
            for label, (red, green) in {"MN": (0.85, 0.04), "IgAN": (0.05, 0.8)}.items():
                for number in range(PER_CELL):
                    severity = exposure * generator.uniform(0.85, 1.1)
                    crops.append(crop(generator, severity * red, severity * green, severity * 0.05))
                    rows.append((f"{site}-{label}-{number}", site, label))
        self.crops = np.stack(crops)
        self.index = pd.DataFrame(rows, columns=["patient", "site", "label"])
        self.index["crop"] = self.index["patient"] + "#0"
        self.sites = self.index.set_index("patient")["site"]
        self.train = set(self.index["patient"][~self.index["patient"].str.endswith(("-0", "-1", "-2"))])

    def brightness(self, crops: np.ndarray, site: str, label: str, channel: int) -> np.ndarray:
        chosen = ((self.index["site"] == site) & (self.index["label"] == label)).to_numpy()
        return np.percentile(crops[chosen][:, :, :, channel], 99, axis=(1, 2)) / 255


@pytest.fixture(scope="module")
def cohort() -> TwoSites:
    return TwoSites()


@pytest.fixture(scope="module")
def levels(cohort: TwoSites) -> pd.DataFrame:
    return fit_site_levels(cohort.crops, cohort.index, cohort.sites, cohort.train)


def test_the_table(cohort: TwoSites, levels: pd.DataFrame, tmp_path: Path) -> None:
    write_table(tmp_path / "levels.parquet", levels, SITE_LEVELS)
    assert len(read_table(tmp_path / "levels.parquet", SITE_LEVELS)) == 6
    assert list(levels["site"]) == ["north"] * 3 + ["south"] * 3
    assert list(levels["channel"]) == list(CHANNELS) * 2
    assert list(levels["crops"]) == [12, 12, 0, 12, 12, 0]
    gains = levels.set_index(["site", "channel"])["gain"]
    assert 0.75 < gains["north", "red"] < 0.95
    assert 1.05 < gains["south", "red"] < 1.35
    assert gains["north", "blue"] == gains["south", "blue"] == 1.0
    assert levels["level"].isna().tolist() == [False, False, True] * 2


@pytest.mark.parametrize(("label", "channel"), [("MN", 0), ("IgAN", 1)])
def test_sites_come_together(cohort: TwoSites, levels: pd.DataFrame, label: str, channel: int) -> None:
    after = apply_site_levels(cohort.crops, cohort.index, cohort.sites, levels)

    def ratio(crops: np.ndarray) -> float:
        means = [cohort.brightness(crops, site, label, channel).mean() for site in EXPOSURE]
        return means[0] / means[1]

    assert ratio(cohort.crops) > 1.5
    assert 0.9 < ratio(after) < 1.25


@pytest.mark.parametrize("site", EXPOSURE)
@pytest.mark.parametrize("channel", [0, 1])
def test_diagnoses_stay_apart(cohort: TwoSites, levels: pd.DataFrame, site: str, channel: int) -> None:
    after = apply_site_levels(cohort.crops, cohort.index, cohort.sites, levels)
    bright, dark = ("MN", "IgAN") if channel == 0 else ("IgAN", "MN")
    for crops in (cohort.crops, after):
        positive = cohort.brightness(crops, site, bright, channel)
        negative = cohort.brightness(crops, site, dark, channel)
        assert positive.min() > 3 * negative.max()
    # One cut for both sites separates the diagnoses better than before.
    gap = min(cohort.brightness(after, one, bright, channel).min() for one in EXPOSURE)
    before = min(cohort.brightness(cohort.crops, one, bright, channel).min() for one in EXPOSURE)
    assert gap > before * 1.1


def test_the_order_of_severity_is_kept(cohort: TwoSites, levels: pd.DataFrame) -> None:
    after = apply_site_levels(cohort.crops, cohort.index, cohort.sites, levels)
    before = cohort.brightness(cohort.crops, "south", "MN", 0)
    assert list(np.argsort(before, kind="stable")) == list(
        np.argsort(cohort.brightness(after, "south", "MN", 0), kind="stable")
    )


def test_negatives_are_exactly_what_they_were(cohort: TwoSites, levels: pd.DataFrame) -> None:
    after = apply_site_levels(cohort.crops, cohort.index, cohort.sites, levels)
    faint = cohort.crops <= 25
    assert np.array_equal(after[faint], cohort.crops[faint])
    black = np.zeros((1, 48, 48, 3), np.uint8)
    index = pd.DataFrame({"patient": ["south-MN-0"], "crop": ["a#0"]})
    assert not apply_site_levels(black, index, cohort.sites, levels).any()


def test_only_training_patients_are_looked_at(cohort: TwoSites, levels: pd.DataFrame) -> None:
    changed = cohort.crops.copy()
    changed[~cohort.index["patient"].isin(cohort.train).to_numpy()] = 255
    pd.testing.assert_frame_equal(
        fit_site_levels(changed, cohort.index, cohort.sites, cohort.train), levels, check_exact=True
    )


def test_unknown_sites_are_left_as_they_are(cohort: TwoSites, levels: pd.DataFrame) -> None:
    index = pd.DataFrame({"patient": ["new", "without", "nobody"], "crop": ["a#0", "b#0", "c#0"]})
    sites = pd.Series({"new": "elsewhere", "without": None})
    assert np.array_equal(apply_site_levels(cohort.crops[:3], index, sites, levels), cohort.crops[:3])


def test_few_crops_move_little(cohort: TwoSites) -> None:
    few = {patient for patient in cohort.train if patient.startswith("north")} | {"south-MN-3"}
    levels = fit_site_levels(cohort.crops, cohort.index, cohort.sites, few)
    gains = levels.set_index(["site", "channel"])["gain"]
    assert 1.0 < gains["south", "red"] < 1.15
    assert gains["south", "green"] == 1.0


def test_gains_are_bounded() -> None:
    generator = np.random.default_rng(5)
    dim = [crop(generator, 0.26, 0, 0) for _ in range(30)]
    bright = [crop(generator, 0.97, 0, 0) for _ in range(30)]
    index = pd.DataFrame({"patient": [f"p{number}" for number in range(60)], "crop": "a#0"})
    sites = pd.Series(["dim"] * 30 + ["bright"] * 30, index=index["patient"])
    crops = np.stack(dim + bright)
    levels = fit_site_levels(crops, index, sites, set(index["patient"])).set_index(["site", "channel"])
    assert 0.5 <= levels["gain"].min() < 0.75
    assert 1.4 < levels["gain"].max() <= 2.0
    overall = levels.loc[[("dim", "red"), ("bright", "red")], ["level", "gain"]].prod(axis=1)
    assert overall.iloc[0] == pytest.approx(overall.iloc[1], rel=0.05)


def test_a_memory_map_is_enough(cohort: TwoSites, levels: pd.DataFrame, tmp_path: Path) -> None:
    np.save(tmp_path / "crops.npy", cohort.crops)
    mapped = np.load(tmp_path / "crops.npy", mmap_mode="r")
    pd.testing.assert_frame_equal(
        fit_site_levels(mapped, cohort.index, cohort.sites, cohort.train), levels, check_exact=True
    )
    result = apply_site_levels(mapped, cohort.index, cohort.sites, levels)
    assert np.array_equal(result, apply_site_levels(cohort.crops, cohort.index, cohort.sites, levels))


def test_no_training_patient_gives_no_level(cohort: TwoSites) -> None:
    levels = fit_site_levels(cohort.crops, cohort.index, cohort.sites, set())
    assert levels.empty
    assert list(levels.columns) == list(SITE_LEVELS)
    after = apply_site_levels(cohort.crops[:2], cohort.index[:2], cohort.sites, levels)
    assert np.array_equal(after, cohort.crops[:2])


def test_crops_that_do_not_fit_their_index(cohort: TwoSites, levels: pd.DataFrame) -> None:
    with pytest.raises(GlomflowError, match="there are 60 IM crops but 59 rows of them; make them again"):
        fit_site_levels(cohort.crops, cohort.index[:-1], cohort.sites, cohort.train)
    with pytest.raises(GlomflowError, match=r"IM crops are float64 of shape \(2, 4, 4, 3\), not uint8"):
        apply_site_levels(np.zeros((2, 4, 4, 3)), cohort.index[:2], cohort.sites, levels)


def test_levels_of_crops_of_one_marker_are_the_markers_own(cohort: TwoSites) -> None:
    gray = [np.repeat(cohort.crops[:, :, :, [number]], 3, axis=3) for number in (0, 1)]
    index = pd.concat([cohort.index] * 2, ignore_index=True)
    markers = ["IgG"] * len(cohort.index) + ["IgA"] * len(cohort.index)
    index["crop"] = [f"{patient}#{marker}" for patient, marker in zip(index["patient"], markers, strict=True)]
    crops = np.concatenate(gray)
    levels = fit_site_levels(crops, index, cohort.sites, cohort.train)
    colours = fit_site_levels(cohort.crops, cohort.index, cohort.sites, cohort.train)
    assert list(levels["channel"]) == ["IgA", "IgG"] * 2
    for marker, colour in (("IgG", "red"), ("IgA", "green")):
        own, same = (
            frame[frame["channel"] == name].drop(columns="channel").reset_index(drop=True)
            for frame, name in ((levels, marker), (colours, colour))
        )
        pd.testing.assert_frame_equal(own, same, check_exact=True)
    after = apply_site_levels(crops, index, cohort.sites, levels)
    expected = apply_site_levels(cohort.crops, cohort.index, cohort.sites, colours)
    assert np.array_equal(after[: len(cohort.crops), :, :, 2], expected[:, :, :, 0])
    assert np.array_equal(after[len(cohort.crops) :, :, :, 0], expected[:, :, :, 1])
