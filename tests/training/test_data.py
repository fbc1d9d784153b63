"""Bags read from the stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from glomflow.errors import GlomflowError
from glomflow.tables import CROPS, write_table
from glomflow.training.data import Bags, FoldData, Shelf, StoreRef, channel_statistics
from training.synthetic import crop_row, make_stores


def store(folder: Path, rows: list[dict[str, object]], maps: np.ndarray) -> StoreRef:
    ref = StoreRef(folder / "c.npy", folder / "c.parquet", folder / "f.npy")
    write_table(ref.index, pd.DataFrame(rows, columns=list(CROPS)), CROPS)
    np.save(ref.features, maps.astype(np.float16))
    np.save(ref.npy, np.zeros((len(maps), 4, 4, 1), np.uint8))
    return ref


def test_bags_are_the_selected_crops_most_informative_first(tmp_path: Path) -> None:
    rows = [
        crop_row("TEM", 0, 0, 0, True) | {"information": 0.5},
        crop_row("TEM", 0, 1, 1, True) | {"information": 0.9},
        crop_row("TEM", 0, 2, 2, False) | {"information": 1.0},
        crop_row("TEM", 1, 0, 3, True) | {"information": 0.1},
        crop_row("TEM", 2, 0, 4, True),
        crop_row("TEM", 0, 3, 5, True) | {"information": None},
    ]
    ref = store(tmp_path, rows, np.arange(6.0).reshape(6, 1, 1, 1))
    bags = Bags([ref], ["p01", "p03", "p00"], features=True)
    assert bags.slots.tolist() == [[0, -1, -1], [-1, -1, -1], [1, 2, 3]]
    assert bags.crops == ["TEM-p01-0", "TEM-p00-1", "TEM-p00-0", "TEM-p00-3"]
    assert bags.read(np.array([3, 0, 1]))[:, 0, 0, 0].tolist() == [5.0, 3.0, 1.0]


def test_instances_of_some_patients_across_shards(tmp_path: Path) -> None:
    stores = make_stores(tmp_path, 6, lacking={"OM": {0, 3}})
    data = FoldData(stores, ["OM", "TEM"], [f"p{n:02d}" for n in range(6)], features=True)
    instances = data.instances(np.array([3, 0, 1]))
    assert instances.slots["TEM"].tolist() == [[0, 1, 2, 3, 4], [5, 6, -1, -1, -1], [7, 8, 9, -1, -1]]
    assert instances.slots["OM"].tolist() == [[-1], [-1], [0]]
    assert instances.rows["OM"].shape == (1, 7, 7, 8)
    third = np.load(stores["TEM"][1].features)
    first = pd.read_parquet(stores["TEM"][1].index).query("patient == 'p03'")["row"].to_numpy()
    np.testing.assert_array_equal(instances.rows["TEM"][:5].numpy(), third[first[::-1]])
    assert data.present("OM").tolist() == [False, True, True, False, True, True]
    alone = data.instances(np.array([0]))
    assert alone.rows["OM"].shape == (0, 7, 7, 8)
    assert alone.slots["TEM"].shape == (1, 2)


def test_crops_are_read_where_the_encoder_is_trained(tmp_path: Path) -> None:
    stores = make_stores(tmp_path, 4, size=5)
    data = FoldData(stores, ["IM"], ["p00", "p01"], features=False)
    rows = data.instances(np.array([1])).rows["IM"]
    assert (rows.dtype, rows.shape) == (torch.uint8, (1, 5, 5, 3))


def test_statistics_are_of_the_given_patients_only(tmp_path: Path) -> None:
    stores = make_stores(tmp_path, 6)
    data = FoldData(stores, ["TEM"], [f"p{n:02d}" for n in range(6)], features=True)
    mean, deviation = channel_statistics(data, np.array([0, 3]))["TEM"]
    rows = data.instances(np.array([0, 3])).rows["TEM"].double().flatten(0, 2)
    torch.testing.assert_close(mean.double(), rows.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(deviation.double(), rows.std(0, correction=0), rtol=1e-5, atol=1e-6)
    lacking = make_stores(tmp_path, 6, lacking={"TEM": {1}})
    data = FoldData(lacking, ["TEM"], ["p01", "p02"], features=True)
    mean, deviation = channel_statistics(data, np.array([0]))["TEM"]
    assert (mean.tolist(), deviation.tolist()) == ([0.0] * 8, [1.0] * 8)


def test_an_empty_shard_is_no_problem(tmp_path: Path) -> None:
    ref = store(tmp_path, [], np.zeros((0, 2, 2, 3)))
    data = FoldData({"OM": [ref]}, ["OM"], ["p00"], features=True)
    assert data.instances(np.array([0])).rows["OM"].shape == (0, 2, 2, 3)


def test_a_patient_listed_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GlomflowError, match="patients listed twice: p01; list each once"):
        FoldData(make_stores(tmp_path, 3), ["OM"], ["p01", "p00", "p01"], features=True)


def test_a_modality_without_store_is_an_error() -> None:
    with pytest.raises(GlomflowError, match="no crop store for TEM: the cohort has no such images; take"):
        FoldData({"OM": [], "TEM": []}, ["TEM"], ["p00"], features=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            "no features",
            r"store .*c.npy has no cached features; cache them first \(encoder.trainable: none\)",
        ),
        ("length", r"store .*f.npy has 2 rows, its index .*c.parquet has 1; delete both and run again"),
        ("pickle", r"store .*f.npy cannot be read \(.*; delete it and run again"),
    ],
)
def test_stores_that_do_not_fit_are_errors(tmp_path: Path, damage: str, message: str) -> None:
    ref = store(tmp_path, [crop_row("OM", 0, 0, 0, True)], np.zeros((1 + (damage == "length"), 1, 1, 1)))
    if damage == "no features":
        ref = StoreRef(ref.npy, ref.index)
    elif damage == "pickle":
        np.save(ref.features, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(GlomflowError, match=message):
        FoldData({"OM": [ref]}, ["OM"], ["p00"], features=True)


def test_a_shelf_reads_the_same_bags_once(tmp_path: Path) -> None:
    stores = make_stores(tmp_path, 6)
    patients = [f"p{n:02d}" for n in range(6)]
    shelf = Shelf()
    first = FoldData(stores, ["OM", "TEM"], patients, features=True, shelf=shelf)
    second = FoldData(stores, ["TEM"], patients, features=True, shelf=shelf)
    other = FoldData(stores, ["TEM"], patients[:3], features=True, shelf=shelf)
    assert second.bags["TEM"] is first.bags["TEM"]
    assert other.bags["TEM"] is not first.bags["TEM"]
    ours, theirs = (channel_statistics(data, np.array([0, 1]))["TEM"] for data in (first, second))
    assert ours[0] is theirs[0]


def test_bags_held_in_memory_are_those_of_the_files(tmp_path: Path) -> None:
    stores = make_stores(tmp_path, 6)
    data = FoldData(stores, ["TEM"], [f"p{n:02d}" for n in range(6)], features=True)
    bags = data.bags["TEM"]
    rows = np.array([3, 0, 7])
    before = bags.read(rows)
    assert bags.nbytes == len(bags.crops) * 7 * 7 * 8 * 2
    bags.hold()
    np.testing.assert_array_equal(bags.read(rows), before)
    assert not isinstance(bags.read(rows), np.memmap)
