"""Reading ahead, and random changes of crops."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from glomflow.errors import GlomflowError
from glomflow.models.batch import Instances
from glomflow.training.data import FoldData
from glomflow.training.sources import Draws, Reader, changed, flipped
from training.synthetic import make_stores, settings, train


def fold(folder: Path) -> FoldData:
    return FoldData(
        make_stores(folder, 6, size=8), ["OM", "TEM"], [f"p{n:02d}" for n in range(6)], features=False
    )


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_what_is_read_ahead_is_what_is_read(tmp_path: Path, workers: int) -> None:
    data = fold(tmp_path)
    parts = list(torch.tensor([[3, 1], [0, 2], [5, 4]]))
    reader = Reader(data, workers, pin=False)
    reader.plan(parts)
    for places in (parts[0], torch.tensor([4]), parts[1], parts[2]):
        expected = data.instances(places.numpy())
        assert torch.equal(reader.read(places).rows["TEM"], expected.rows["TEM"])
    reader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failing_reader_names_the_patients(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fold(tmp_path)

    def fail(places: np.ndarray, *, pin: bool) -> Instances:
        raise OSError("bad sector")

    monkeypatch.setattr(data, "instances", fail)
    reader = Reader(data, workers, pin=False)
    reader.plan([torch.tensor([2, 5])])
    with pytest.raises(GlomflowError, match=r"features of p02, p05 cannot be read \(bad sector\)"):
        reader.read(torch.tensor([2, 5]))
    reader.close()


def test_a_patients_changes_do_not_depend_on_the_company(tmp_path: Path) -> None:
    data = fold(tmp_path)
    training = settings(encoder={"trainable": "all"}, stain_augmentation=1.0).diagnosis.training

    def images(places: list[int], step: int) -> torch.Tensor:
        given = data.instances(np.array(places))
        counts = {name: (slots >= 0).sum(1).tolist() for name, slots in given.slots.items()}
        draws = Draws(1, 0, step, 0, torch.device("cpu"))
        return changed(given, counts, torch.tensor(places), draws, training).rows["OM"]

    together, alone = images([3, 1], 0), images([1], 4)
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together, data.instances(np.array([3, 1])).rows["OM"])


def test_flips_are_flips() -> None:
    image = torch.arange(4).reshape(1, 2, 2, 1).repeat(4, 1, 1, 1)
    choices = torch.tensor([[False, False, True, True], [False, True, False, True]])
    expected = [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
    assert flipped(image, choices).flatten(1).tolist() == expected


@pytest.mark.parametrize("cache_gb", [0, 1])
def test_a_network_that_cannot_be_compiled_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_gb: float
) -> None:
    def broken(graph: object, inputs: object) -> None:
        raise RuntimeError("there is no C++ compiler")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    compile_module = functools.partialmethod(torch.nn.Module.compile, backend=broken)
    monkeypatch.setattr(torch.nn.Module, "compile", compile_module)
    configuration = settings(compile=True, cache_gb=cache_gb)
    message = r"no C\+\+ compiler.*; set diagnosis\.training\.compile: false"
    with pytest.raises(GlomflowError, match=message):
        train(tmp_path, make_stores(tmp_path), configuration)
