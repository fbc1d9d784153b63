"""Estimates from the measured costs of a run."""

import numpy as np
import pandas as pd
import pytest

from glomflow.cli import main
from glomflow.errors import GlomflowError
from glomflow.estimates import Cost, costs_table, estimate, estimate_table, measured_costs
from glomflow.tables import CROPS, INVENTORY, write_table


def rows(schema, count: int, **values) -> pd.DataFrame:
    blank = {"string": "", "float64": 0.0, "int64": 0, "bool": False}
    frame = pd.DataFrame({name: [blank[spec.dtype]] * count for name, spec in schema.items()})
    return frame.assign(**values)


@pytest.fixture
def results(tmp_path):
    """Two patients with an OM image and three TEM images in two shards, as a run leaves them."""
    modality = ["OM", "TEM", "TEM", "TEM"] * 2
    images = rows(INVENTORY, 8, patient=["p"] * 4 + ["q"] * 4, modality=modality, status="ok")
    write_table(tmp_path / "inventory.parquet", images, INVENTORY)
    times = {
        "ingest": 4.0,
        "stain_profiles": 1.0,
        "glomerulus_crops": 3.0,
        "tem_tiles": 6.0,
        "features/om": 5.0,
    }
    for name, seconds in times.items():
        for shard in range(2):
            path = tmp_path / "benchmarks" / name / f"{shard:04d}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"s\tcpu_time\n{seconds}\t{seconds / 2}\n", encoding="utf-8")
    for fold in range(5):
        path = tmp_path / "benchmarks" / "train" / f"fold{fold}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("s\tcpu_time\n36.0\t18.0\n", encoding="utf-8")
    for shard in range(2):
        for folder, size in (("inventory", 80), ("crops/om", 5000), ("crops/tem", 300)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f"{shard:04d}.npy").write_bytes(b"0" * size)
        write_table(tmp_path / "crops" / "om" / f"{shard:04d}.parquet", rows(CROPS, 5), CROPS)
        (tmp_path / "features" / "om").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "features" / "om" / f"{shard:04d}.npy", np.zeros((5, 936), np.uint8))
    return tmp_path


def test_costs_of_a_run(results) -> None:
    costs = {cost.stage: cost for cost in measured_costs(results)}
    assert list(costs) == ["ingest", "stain_profiles", "glomerulus_crops", "tem_tiles", "features", "train"]
    assert costs["ingest"] == Cost("ingest", "image", 4.0, 1.0, 20.0, True)
    assert costs["stain_profiles"] == Cost("stain_profiles", "OM image", 1.0, 1.0, 0.0, True)
    assert costs["tem_tiles"] == Cost("tem_tiles", "TEM image", 3.0, 2.0, 100.0, True)
    assert costs["features"] == Cost("features", "crop", 5.0, 1.0, 961.6, False)
    assert costs["train"] == Cost("train", "patient", 1.0, 90.0, 0.0, False, 5)
    halved = {cost.stage: cost.seconds for cost in measured_costs(results, "cpu_seconds")}
    assert halved == {stage: cost.seconds / 2 for stage, cost in costs.items()}


def test_the_command_prints_both_tables(results, capsys) -> None:
    assert main(["estimate", str(results), "--patients", "1000", "--workers", "10"]) == 0
    printed = capsys.readouterr().out
    assert "| `tem_tiles` | TEM image | 3.0 | 2.000 | 0.1 |" in printed
    assert "| patients | pixels per image | core hours | hours on 10 cores | GB of results |" in printed


def test_an_unfinished_run_is_named(results) -> None:
    for path in (results / "benchmarks" / "ingest").iterdir():
        path.unlink()
    with pytest.raises(
        GlomflowError, match="benchmarks/ingest: no benchmark of rule ingest; name the results"
    ):
        measured_costs(results)


COSTS = [
    Cost("ingest", "image", 7.0, 0.9, 2e6, True),
    Cost("features", "crop", 20.0, 0.36, 1e6, False),
    Cost("train", "patient", 1.0, 3.6, 0.0, False, 5),
]


@pytest.mark.parametrize(
    ("workers", "pixels", "expected"),
    [
        (1, 1.0, {"cpu_hours": 17.1 / 3.6, "hours": 17.1 / 3.6, "gigabytes": 34.0}),
        (10, 1.0, {"cpu_hours": 17.1 / 3.6, "hours": 0.375 + 0.2, "gigabytes": 34.0}),
        (10, 4.0, {"cpu_hours": 36.0 / 3.6, "hours": 0.9 + 0.2, "gigabytes": 34.0}),
    ],
)
def test_estimates(workers, pixels, expected) -> None:
    assert estimate(COSTS, 1000, workers=workers, pixels=pixels) == pytest.approx(expected)
    double = estimate(COSTS, 2000, workers=workers, pixels=pixels)
    assert double == pytest.approx({name: 2 * value for name, value in expected.items()})


def test_tables() -> None:
    assert costs_table(COSTS[:1]).splitlines()[-1] == "| `ingest` | image | 7.0 | 0.900 | 2000.0 |"
    lines = estimate_table(COSTS, [1000, 100_000], workers=10, pixels=[1, 4]).splitlines()
    assert lines[2] == "| 1,000 | x 1 | 4.8 | 0.6 | 34.0 |"
    assert lines[-1] == "| 100,000 | x 4 | 1,000.0 | 110.0 | 3,400.0 |"
