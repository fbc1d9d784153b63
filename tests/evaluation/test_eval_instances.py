import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glomflow.config import Evaluation
from glomflow.errors import GlomflowError
from glomflow.evaluation.instances import (
    HITS,
    TILES,
    DepositHits,
    deposit_hits,
    expected_top,
    locate_deposits,
)

SETTINGS = Evaluation(bootstrap=200)


class Cohort:
    """Patients with two TEM images of two tiles each; the left half of the first image has deposits."""

    def __init__(self, folder, patients: int = 12) -> None:
        self.folder = folder
        (folder / "truth/TEM").mkdir(parents=True)
        self.truth: dict = {"tem_images": {}}
        inventory, crops = [], []
        for number in range(patients):
            patient = f"P{number:02d}"
            mask = np.zeros((40, 80), dtype=np.uint8)
            mask[10:20, 5:25] = 255
            Image.fromarray(mask).save(folder / f"truth/TEM/{patient}_0.png")
            for place in range(2):
                path = f"TEM/{patient}_{place}.tif"
                shown = place == 0
                name = f"truth/TEM/{patient}_0.png" if shown else None
                self.truth["tem_images"][path] = {"deposits": shown, "mask": name}
                image = path.replace("/", "__")
                inventory.append({"image": image, "path": path, "width": 80, "height": 40})
                crops += [
                    {"crop": f"{image}-{x}", "image": image, "x": x, "y": 0.0, "width": 40.0, "height": 40.0}
                    for x in (0.0, 40.0)
                ]
        self.inventory, self.crops = pd.DataFrame(inventory), pd.DataFrame(crops)

    def instances(self, model: str, weights: list[float], kept: list[bool] | None = None) -> pd.DataFrame:
        size = len(self.crops) // 4
        return pd.DataFrame(
            {
                "patient": np.repeat([f"P{number:02d}" for number in range(size)], 4),
                "model": model,
                "fold": 0,
                "seed": 0,
                "modality": "TEM",
                "crop": self.crops["crop"],
                "rank": np.tile(np.arange(4), size),
                "weight": np.tile(weights, size),
                "kept": np.tile(kept or [True] * 4, size),
            }
        )

    def hits(self, instances: pd.DataFrame) -> DepositHits:
        return deposit_hits(instances, self.crops, self.inventory, self.truth, self.folder, SETTINGS, seed=0)


@pytest.fixture
def cohort(tmp_path) -> Cohort:
    return Cohort(tmp_path)


@pytest.mark.parametrize(
    ("weights", "deposit", "count", "expected"),
    [
        ([0.9, 0.1, 0.5], [True, False, False], 1, 1.0),
        ([0.9, 0.1, 0.5], [False, True, True], 1, 0.0),
        ([1.0, 1.0, 1.0, 1.0], [True, False, False, False], 1, 0.25),
        ([1.0, 1.0, 1.0, 1.0], [True, False, False, False], 3, 0.25),
        ([2.0, 1.0, 1.0], [True, True, False], 2, 0.75),
        ([2.0, 1.0], [True, False], 3, 0.5),
    ],
)
def test_ties_are_taken_in_random_order(weights, deposit, count: int, expected: float) -> None:
    assert expected_top(np.array(weights), np.array(deposit), count) == pytest.approx(expected)


def test_only_the_tile_that_holds_the_deposit_shows_it(cohort) -> None:
    tiles = locate_deposits(
        cohort.instances("m", [1, 1, 1, 1]), cohort.crops, cohort.inventory, cohort.truth, cohort.folder
    )
    assert tiles["deposit"].tolist()[:4] == [True, False, False, False]
    assert tiles["deposit_share"].iloc[0] == pytest.approx(10 * 20 / 1600)
    assert tiles["mask"].iloc[0] == "truth/TEM/P00_0.png"


def test_a_model_that_finds_deposits_and_one_that_drops_them(cohort, tmp_path) -> None:
    rows = pd.concat(
        [
            cohort.instances("sum", [1, 1, 1, 1]),
            cohort.instances("finds", [1.0, 0.2, 0.2, 0.1]),
            cohort.instances("drops", [0.0, 1.0, 0.5, 0.5], [False, True, True, True]),
        ],
        ignore_index=True,
    )
    hits = cohort.hits(rows)
    table = hits.summary.set_index(["model", "measure"])
    assert table.loc[("sum", "top1"), ["value", "chance", "excess"]].tolist() == pytest.approx(
        [0.25, 0.25, 0]
    )
    assert table.loc[("sum", "kept"), ["value", "chance"]].tolist() == [1.0, 1.0]
    assert table.loc[("finds", "top1"), "value"] == 1.0
    assert table.loc[("finds", "top1"), "lower"] == pytest.approx(0.7575, abs=1e-3)
    assert table.loc[("finds", "top1"), "excess_lower"] > 0
    assert table.loc[("finds", "top3"), "value"] == pytest.approx(1 / 3)
    assert table.loc[("finds", "weight_share"), "value"] == pytest.approx(1 / 1.5)
    assert table.loc[("drops", "top1"), "value"] == 0.0
    assert table.loc[("drops", "kept"), ["value", "chance", "excess"]].tolist() == [0.0, 1.0, -1.0]
    assert table["patients"].unique().tolist() == [12]
    hits.write(tmp_path / "hits.parquet", tmp_path / "tiles.parquet")
    again = DepositHits.read(tmp_path / "hits.parquet", tmp_path / "tiles.parquet")
    pd.testing.assert_frame_equal(again.summary, hits.summary, check_dtype=False)
    assert list(again.tiles.columns) == list(TILES)


def test_patients_without_a_deposit_tile_are_left_out(cohort) -> None:
    rows = cohort.instances("m", [1.0, 0.2, 0.2, 0.1])
    rows = rows[~((rows["patient"] == "P03") & (rows["rank"] == 0))]
    assert cohort.hits(rows).summary["patients"].tolist() == [11] * 4


def test_no_deposit_at_all_gives_an_empty_table(cohort) -> None:
    for entry in cohort.truth["tem_images"].values():
        entry["deposits"] = False
    hits = cohort.hits(cohort.instances("m", [1, 1, 1, 1]))
    assert hits.summary.empty
    assert list(hits.summary.columns) == list(HITS)
    assert not hits.tiles["deposit"].any()


def _without_crop(cohort: Cohort) -> None:
    cohort.crops = cohort.crops.iloc[1:]


def _without_image(cohort: Cohort) -> None:
    cohort.inventory = cohort.inventory.iloc[1:]


def _without_truth(cohort: Cohort) -> None:
    del cohort.truth["tem_images"]["TEM/P00_0.tif"]


def _without_mask(cohort: Cohort) -> None:
    (cohort.folder / "truth/TEM/P00_0.png").unlink()


def _small_mask(cohort: Cohort) -> None:
    Image.new("L", (10, 10)).save(cohort.folder / "truth/TEM/P00_0.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_crop, r"instances: tile 'TEM__P00_0\.tif-0\.0' is not in the TEM crop index"),
        (_without_image, r"TEM crop index: image 'TEM__P00_0\.tif' is not in the inventory"),
        (_without_truth, r"inventory: TEM image 'TEM/P00_0\.tif' is not in phantom\.json"),
        (_without_mask, r"TEM/P00_0\.tif: phantom\.json says that it shows deposits, but the mask"),
        (_small_mask, r"truth/TEM/P00_0\.png: 10x10 px, but TEM/P00_0\.tif has 80x40 px"),
    ],
)
def test_what_does_not_fit_is_named(cohort, spoil, message: str) -> None:
    rows = cohort.instances("m", [1, 1, 1, 1])
    spoil(cohort)
    with pytest.raises(GlomflowError, match=message):
        cohort.hits(rows)


def test_a_negative_weight_names_the_patient(cohort) -> None:
    with pytest.raises(GlomflowError, match="model 'm', seed 0, patient P00: an instance weight is negative"):
        cohort.hits(cohort.instances("m", [1, 1, 1, -1]))


def test_no_instance_is_an_error(cohort) -> None:
    with pytest.raises(GlomflowError, match="no TEM instance to compare"):
        cohort.hits(cohort.instances("m", [1, 1, 1, 1]).iloc[:0])
