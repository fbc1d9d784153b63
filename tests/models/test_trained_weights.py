"""Trained weights and their digest."""

import pytest
import torch
from safetensors.torch import save_file

from glomflow.errors import GlomflowError
from glomflow.files import sha256_file
from glomflow.models.trained_weights import load_weights, save_weights

TENSORS = {
    "a": torch.arange(12.0).reshape(3, 4).T,
    "b": torch.tensor(7),
    "c": torch.ones(2, dtype=torch.bfloat16),
    "d": torch.zeros(0),
}


def test_weights_come_back(tmp_path) -> None:
    save_weights(tmp_path / "w.safetensors", TENSORS)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert set(loaded) == set(TENSORS)
    assert all(torch.equal(loaded[name], value) for name, value in TENSORS.items())


def test_the_same_weights_are_the_same_file(tmp_path) -> None:
    for name in ("one", "two"):
        save_weights(tmp_path / name, TENSORS)
    assert sha256_file(tmp_path / "one") == sha256_file(tmp_path / "two")


@pytest.mark.parametrize("place", [-1, -20])
def test_a_flipped_bit_is_seen(tmp_path, place) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(GlomflowError, match=r"w\.safetensors: the weights do not have the digest"):
        load_weights(path)


def test_a_cut_off_file_is_named(tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(GlomflowError, match=r"w\.safetensors: cannot be loaded .*train again"):
        load_weights(path)


def test_a_file_without_a_digest_is_taken(tmp_path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    assert load_weights(tmp_path / "w.safetensors")["a"].tolist() == [1.0, 1.0]
