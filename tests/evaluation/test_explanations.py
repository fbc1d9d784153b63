"""Checks of explanations: maps of known agreement, curves, randomised models, and contributions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glomflow.config import Evaluation
from glomflow.errors import GlomflowError
from glomflow.evaluation.explanation_truth import deposit_masks, glomerulus_masks
from glomflow.evaluation.explanations import BY_CLASS, CHECKS, MEAN_CURVES, Checks, Target, check_explanations
from glomflow.evaluation.explanations_files import read_maps
from glomflow.evaluation.map_measures import (
    area_under,
    energy_share,
    pointing,
    rank_correlation,
    similarity,
    upsampled,
    widened,
)
from glomflow.imaging.annotations import Outline, write_geojson
from glomflow.tables import write_table
from glomflow.tables_explanations import MAPS

MASK = np.zeros((4, 4), dtype=bool)
MASK[:2, :2] = True


def test_enlarging_keeps_centres_and_goes_on_beyond_them() -> None:
    found = upsampled(np.array([[0.0, 4.0]]), (2, 4))
    assert found.tolist() == [[0.0, 1.0, 3.0, 4.0]] * 2
    assert upsampled(np.array([[7.0]]), (2, 3)).tolist() == [[7.0] * 3] * 2


def test_a_map_equal_to_its_mask_points_into_it() -> None:
    assert pointing(MASK.astype(float), MASK) == 1.0
    assert energy_share(MASK.astype(float), MASK) == 1.0
    assert pointing((~MASK).astype(float), MASK) == 0.0
    assert energy_share((~MASK).astype(float) - 3.0 * MASK, MASK) == 0.0


def test_a_flat_map_gets_the_share_of_the_area() -> None:
    for flat in (np.zeros((4, 4)), np.full((4, 4), 0.3)):
        assert pointing(flat, MASK) == 0.25
        assert energy_share(flat, MASK) == 0.25


def test_a_mask_is_widened_by_the_tolerance() -> None:
    single = np.zeros((5, 5), dtype=bool)
    single[2, 2] = True
    assert widened(single, 1.0).sum() == 5
    assert widened(single, 1.5).sum() == 9
    assert widened(single, 0.0).sum() == 1
    assert not widened(np.zeros((3, 3), dtype=bool), 2.0).any()


def test_area_under_a_curve() -> None:
    assert area_under(np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.5, 0.0])) == 0.5
    assert area_under(np.array([0.0, 0.5, 1.0]), np.array([1.0, 1.0, 0.0])) == 0.75


def test_agreement_of_two_maps() -> None:
    ramp = np.arange(9.0).reshape(3, 3)
    assert rank_correlation(ramp, ramp**3) == pytest.approx(1.0)
    assert rank_correlation(ramp, -ramp) == pytest.approx(-1.0)
    assert np.isnan(rank_correlation(ramp, np.zeros((3, 3))))
    assert similarity(ramp, 5 * ramp) == pytest.approx(1.0)
    assert similarity(ramp, ramp[::-1, ::-1]) < 0
    assert np.isnan(similarity(ramp, np.zeros((3, 3))))


def map_row(row: int, patient: str, crop: str, draw: int = 0, **more: object) -> dict[str, object]:
    return {
        "row": row,
        "patient": patient,
        "model": "net",
        "fold": 0,
        "seed": 0,
        "draw": draw,
        "modality": "TEM",
        "crop": crop,
        "kind": "grad_cam",
        "height": 4,
        "width": 4,
        "weight": 1.0,
        "value": 0.0,
        **more,
    }


def contribution(patient: str, modality: str, share: float, predicted: str = "MN") -> dict[str, object]:
    key = {"patient": patient, "model": "net", "fold": 0, "seed": 0, "modality": modality}
    total = {"p_all": 0.9, "p_empty": 0.4, "completeness": np.nan, "alone": 0.5}
    return {**key, **total, "predicted": predicted, "contribution": share}


def curve(patient: str, order: str, direction: str, values: list[float]) -> pd.DataFrame:
    frame = pd.DataFrame({"share": np.linspace(0, 1, len(values)), "probability": values})
    key = {"patient": patient, "model": "net", "fold": 0, "seed": 0}
    return frame.assign(**key, order=order, direction=direction)


@pytest.fixture
def parts():
    """Two patients, two tiles each; the first tile shows a deposit, and only P0's map finds it."""
    ramp = np.arange(16.0).reshape(4, 4)
    maps = np.stack([MASK, ~MASK, ~MASK, MASK, ramp, -ramp, ramp, ramp]).astype(np.float32)
    rows = [
        map_row(0, "P0", "a", value=0.9),
        map_row(1, "P0", "b", value=0.1),
        map_row(2, "P1", "c", value=0.2, weight=3.0),
        map_row(3, "P1", "d", value=0.7),
        map_row(4, "P0", "a", 1),
        map_row(5, "P0", "b", 1),
        map_row(6, "P1", "c", 1),
        map_row(7, "P1", "d", 1),
    ]
    contributions = pd.DataFrame(
        [
            contribution("P0", "TEM", 0.4),
            contribution("P0", "OM", 0.1),
            contribution("P1", "TEM", 0.5, "LN"),
        ]
    )
    curves = pd.concat(
        [
            curve(patient, order, direction, values)
            for patient in ("P0", "P1")
            for order, direction, values in (
                ("map", "deletion", [0.9, 0.2, 0.1]),
                ("map", "insertion", [0.1, 0.9, 0.9]),
                ("random", "deletion", [0.9, 0.5, 0.1]),
                ("random", "insertion", [0.1, 0.5, 0.9]),
            )
        ],
        ignore_index=True,
    )
    return maps, pd.DataFrame(rows), contributions, curves


TRUTH = {("net", "P0"): "MN", ("net", "P1"): "MN"}


def checked(parts, **options: object) -> Checks:
    given: dict[str, object] = {
        "targets": [Target("TEM", 4, [("a", MASK), ("c", MASK), ("unknown", MASK)])],
        "deposits": {"a": True, "b": False, "c": True, "d": False},
        **options,
    }
    targets, deposits = given["targets"], given["deposits"]
    return check_explanations(*parts, TRUTH, targets, deposits, Evaluation(bootstrap=200), seed=1)


def row_of(checks: Checks, measure: str, group: str = "all") -> pd.Series:
    table = checks.summary.set_index(["measure", "group"])
    return table.loc[(measure, group)]


def test_localisation_and_ranking(parts) -> None:
    checks = checked(parts)
    energy = row_of(checks, "energy")
    assert energy["value"] == 0.5
    assert energy["reference"] == 0.25
    assert (energy["lower"], energy["upper"]) == (0.0, 1.0)
    assert (energy["patients"], energy["items"]) == (2, 2)
    right = row_of(checks, "energy", "right")
    assert right["value"] == 1.0
    assert right["patients"] == 1
    assert np.isnan(right["lower"])
    # P0's first tile by map is the deposit, P1's is not; by weight P0's tiles tie and P1's is.
    assert row_of(checks, "top_by_map")["value"] == 0.5
    assert row_of(checks, "top_by_weight")["value"] == 0.75
    assert row_of(checks, "top_by_weight")["reference"] == 0.5
    assert row_of(checks, "pointing", "right")["lower"] == pytest.approx(0.2065, abs=1e-3)


def test_a_tile_that_the_pooling_left_out_is_not_judged(parts) -> None:
    maps, index, *rest = parts
    index.loc[2, "weight"] = 0.0
    assert row_of(checked((maps, index, *rest)), "energy")["value"] == 1.0


def test_deletion_and_insertion_beside_random_orders(parts) -> None:
    checks = checked(parts)
    deletion, insertion = row_of(checks, "deletion"), row_of(checks, "insertion")
    assert deletion["value"] == pytest.approx(0.35)
    assert deletion["difference"] == pytest.approx(-0.15)
    assert insertion["difference"] == pytest.approx(0.2)
    sizes = checks.curves.groupby(["order", "direction"]).size()
    assert sizes.tolist() == [3, 3, 3, 3]


def test_randomised_models_are_compared_within_patients(parts) -> None:
    found = row_of(checked(parts), "rank_correlation")
    assert (found["patients"], found["items"]) == (2, 2)
    first = np.concatenate([MASK.ravel(), ~MASK.ravel()]).astype(float)
    ramp = np.arange(16.0)
    expected = rank_correlation(first, np.concatenate([ramp, -ramp]))
    other = rank_correlation(1 - first, np.concatenate([ramp, ramp]))
    assert found["value"] == pytest.approx((expected + other) / 2)
    assert np.isnan(found["reference"])


def test_contributions_are_averaged_by_class(parts) -> None:
    checks = checked(parts)
    table = checks.by_class.set_index(["predicted", "modality"])
    assert table.loc[("all", "TEM"), "value"] == pytest.approx(0.45)
    assert table.loc[("all", "OM"), "patients"] == 1
    assert table.loc[("LN", "TEM"), "value"] == 0.5
    assert row_of(checks, "error")["value"] == pytest.approx(0.0, abs=1e-12)


def test_a_wrong_sum_of_contributions_is_seen(parts) -> None:
    parts[2].loc[0, "contribution"] = 0.3
    assert row_of(checked(parts), "error")["value"] == pytest.approx(0.1)


def test_without_truth_only_the_other_checks_are_made(parts, tmp_path: Path) -> None:
    checks = checked(parts, targets=[], deposits=None)
    assert set(checks.summary["check"]) == {"faithfulness", "randomised", "additivity"}
    checks.write(tmp_path)
    again = Checks.read(tmp_path)
    for frame, schema in ((again.summary, CHECKS), (again.by_class, BY_CLASS), (again.curves, MEAN_CURVES)):
        assert list(frame) == list(schema)
    pd.testing.assert_frame_equal(again.curves, checks.curves, check_dtype=False)


def test_nothing_explained_is_an_error(parts) -> None:
    maps, index, contributions, curves = parts
    with pytest.raises(GlomflowError, match="explanations: no prediction was explained"):
        checked((maps, index, contributions.head(0), curves))


def test_maps_of_several_jobs_are_joined(tmp_path: Path) -> None:
    files = []
    for job, edge in enumerate((2, 3)):
        files.append((tmp_path / f"{job}.npy", tmp_path / f"{job}.parquet"))
        np.save(files[-1][0], np.full((1, edge, edge), float(job), np.float32))
        frame = pd.DataFrame([map_row(0, f"P{job}", "a", height=edge, width=edge)])[list(MAPS)]
        write_table(files[-1][1], frame, MAPS)
    maps, index = read_maps(*zip(*files, strict=True))
    assert index["row"].tolist() == [0, 1]
    assert maps.shape == (2, 3, 3)
    assert np.isnan(maps[0, 2]).all()
    assert (maps[1] == 1.0).all()
    np.save(files[0][0], np.zeros((2, 2, 2), np.float32))
    with pytest.raises(GlomflowError, match=r"0\.npy: 2 maps, but 1 rows; delete both"):
        read_maps(*zip(*files, strict=True))


def test_masks_of_deposits_are_cut_to_the_tile(tmp_path: Path) -> None:
    from PIL import Image

    picture = np.zeros((8, 8), np.uint8)
    picture[2:4, 4:6] = 255
    Image.fromarray(picture).save(tmp_path / "mask.png")
    place = {"x": 4.0, "y": 0.0, "width": 4.0, "height": 4.0}
    located = pd.DataFrame(
        [
            {"crop": "a", **place, "deposit": True, "mask": "mask.png"},
            {"crop": "b", **place, "deposit": False, "mask": None},
        ]
    )
    ((crop, mask),) = deposit_masks(located, tmp_path, 4)
    assert crop == "a"
    assert mask.tolist() == [[False] * 4, [False] * 4, [True, True, False, False], [True, True, False, False]]


def test_masks_of_glomeruli_are_what_was_outlined(tmp_path: Path) -> None:
    square = np.array([[4.0, 4.0], [12.0, 4.0], [12.0, 12.0], [4.0, 12.0]])
    write_geojson(tmp_path / "a.geojson", [Outline(square)])
    crops = pd.DataFrame(
        [
            {"crop": "c", "image": "i", "x": 0.0, "y": 0.0, "width": 16.0, "height": 16.0},
            {"crop": "bare", "image": "j", "x": 0.0, "y": 0.0, "width": 16.0, "height": 16.0},
        ]
    )
    images = pd.DataFrame(
        {"image": ["i", "j"], "path": ["i.tif", "j.tif"], "annotation": ["a.geojson", None]}
    )
    inventory = pd.DataFrame({"image": ["i", "j"], "width": 20, "height": 20})
    ((crop, mask),) = glomerulus_masks({"c", "bare"}, crops, images, inventory, tmp_path, 8)
    assert crop == "c"
    assert mask[2:6, 2:6].all()
    assert mask.sum() in (16, 25)
