"""Finders that come as a file: TorchScript, ONNX, and what is wrong with them."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from glomflow.config_finder import Finder
from glomflow.errors import GlomflowError
from glomflow.files import sha256_file, write_json
from glomflow.training.finder_models import load_finder
from glomflow.training.finder_predict import find
from training.finder_synthetic import draw, settings

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

WEIGHTS = [[0.0, 0.0, 0.0], [0.0, -200.0, 0.0]]
"""Two channels of a 1x1 convolution: nothing, and violet by its dark green channel."""
BIAS = [0.0, 86.0]


class Script(nn.Module):
    def __init__(self, shrink: int = 1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)
        self.layer.weight = nn.Parameter(torch.tensor(WEIGHTS)[:, :, None, None])
        self.layer.bias = nn.Parameter(torch.tensor(BIAS))
        self.shrink = shrink

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images)[:, :, :: self.shrink, :: self.shrink]


def script_file(folder: Path, shrink: int = 1) -> Path:
    path = folder / "model.pt"
    torch.jit.trace(Script(shrink), torch.zeros(1, 3, 64, 64)).save(str(path))
    return path


def onnx_file(folder: Path, batch: Any = "n", inputs: int = 1) -> Path:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make, float_type = onnx.helper, onnx.TensorProto.FLOAT
    ends = [
        make.make_tensor_value_info(name, float_type, [batch, channels, "h", "w"])
        for name, channels in (("x", 3), ("y", 2))
    ]
    extra = [make.make_tensor_value_info(f"extra{i}", float_type, [1]) for i in range(inputs - 1)]
    held = [
        onnx.numpy_helper.from_array(np.array(WEIGHTS, np.float32)[:, :, None, None], "w"),
        onnx.numpy_helper.from_array(np.array(BIAS, np.float32), "b"),
    ]
    node = make.make_node("Conv", ["x", "w", "b"], ["y"])
    graph = make.make_graph([node], "finder", [ends[0], *extra], [ends[1]], initializer=held)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    return path


def using(path: Path, **external: Any) -> Finder:
    given = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "channel": 1, **external}
    return settings(model=f"file:{path}", sha256=sha256_file(path), external=given)


@pytest.mark.parametrize("make", [script_file, onnx_file])
def test_a_model_from_a_file_finds_glomeruli(tmp_path: Path, make: Any) -> None:
    finder = using(make(tmp_path))
    found = find(draw(150, 100, [(50, 50, 25), (115, 60, 20)]), 2.0, load_finder(finder), finder)
    assert [each.box for each in found] == [
        pytest.approx((25, 25, 75, 75), abs=1),
        pytest.approx((95, 40, 135, 80), abs=1),
    ]


def test_both_formats_give_the_same_probabilities(tmp_path: Path) -> None:
    tiles = np.random.default_rng(2).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    paths = [script_file(tmp_path), onnx_file(tmp_path)]
    for activation in ("sigmoid", "softmax"):
        given = [load_finder(using(path, activation=activation)).predict(tiles) for path in paths]
        assert given[0].shape == (3, 1, 64, 64)
        np.testing.assert_allclose(given[0], given[1], atol=1e-5)
        logits = 86.0 - 200.0 / 255.0 * tiles[..., 1].astype(np.float64)  # the other channel's are 0
        np.testing.assert_allclose(given[0][:, 0], 1 / (1 + np.exp(-logits)), atol=1e-4)


def test_a_file_needs_a_digest() -> None:
    with pytest.raises(
        ValidationError, match=re.escape("imaging.finder.sha256 is needed with a model's file")
    ):
        Finder(model="file:model.pt")


@pytest.mark.parametrize("model", ["file:model.pth", "model.pt", "unet"])
def test_a_model_of_an_unknown_kind_is_refused(model: str) -> None:
    message = f"imaging.finder.model: '{model}' is none of train, file:<path>.pt and file:<path>.onnx"
    with pytest.raises(ValidationError, match=re.escape(message)):
        Finder(model=model, sha256="0" * 64)


def test_a_tile_is_a_multiple_of_32() -> None:
    with pytest.raises(ValidationError, match="multiple of 32"):
        Finder(tile=500)


def test_a_file_of_another_digest_is_never_run(tmp_path: Path) -> None:
    path = script_file(tmp_path)
    wrong = settings(model=f"file:{path}", sha256="0" * 64)
    message = f"imaging.finder.sha256: {path} has {sha256_file(path)}, not {'0' * 64}"
    with pytest.raises(GlomflowError, match=re.escape(message)):
        load_finder(wrong)
    assert load_finder(settings(model=f"file:{path}", sha256=sha256_file(path).upper())).name == str(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    wrong = settings(model=f"file:{tmp_path / 'none.onnx'}", sha256="0" * 64)
    with pytest.raises(GlomflowError, match=re.escape(f"there is no file {tmp_path / 'none.onnx'}")):
        load_finder(wrong)


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.pt", "is no TorchScript model"), ("model.onnx", "is no ONNX model that onnxruntime can run")],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, message: str) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / name
    path.write_bytes(b"no model at all")
    with pytest.raises(GlomflowError, match=re.escape(f"imaging.finder.model: {path} {message}")):
        load_finder(using(path))


def test_onnx_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = onnx_file(tmp_path)
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(GlomflowError, match=re.escape("run 'pip install glomflow[onnx]'")):
        load_finder(using(path))


def test_an_output_of_another_size_is_refused(tmp_path: Path) -> None:
    model = load_finder(using(script_file(tmp_path, shrink=2)))
    message = "gives an output of shape (1, 2, 32, 32) for images of shape (1, 3, 64, 64)"
    with pytest.raises(GlomflowError, match=re.escape(message)):
        model.predict(np.zeros((1, 64, 64, 3), np.uint8))


@pytest.mark.parametrize("make", [script_file, onnx_file])
def test_a_channel_that_is_not_there_is_refused(tmp_path: Path, make: Any) -> None:
    model = load_finder(using(make(tmp_path), channel=2))
    message = "with more than 2 channels (imaging.finder.external.channel)"
    with pytest.raises(GlomflowError, match=re.escape(message)):
        model.predict(np.zeros((1, 64, 64, 3), np.uint8))


def test_logits_taken_for_probabilities_are_refused(tmp_path: Path) -> None:
    model = load_finder(using(script_file(tmp_path), activation="none"))
    message = "gives values from 86 to 86 where probabilities from 0 to 1 are expected"
    with pytest.raises(GlomflowError, match=re.escape(message)):
        model.predict(np.zeros((1, 64, 64, 3), np.uint8))


def test_a_model_that_fails_on_a_batch_says_what_to_change(tmp_path: Path) -> None:
    model = load_finder(using(onnx_file(tmp_path, batch=1)))
    with pytest.raises(GlomflowError, match=r"fails on images of shape \(2, 3, 64, 64\) .* any number of"):
        model.predict(np.zeros((2, 64, 64, 3), np.uint8))


def test_a_model_of_two_inputs_is_refused(tmp_path: Path) -> None:
    path = onnx_file(tmp_path, inputs=2)
    with pytest.raises(GlomflowError, match=r"has 2 inputs \(x, extra0\); export it with one"):
        load_finder(using(path))


def test_a_finder_that_was_not_trained_cannot_be_loaded() -> None:
    with pytest.raises(GlomflowError, match="no trained finder is given; train one first"):
        load_finder(settings())


def test_a_finder_of_another_resolution_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "finder.json", {"um_per_px": 4.0})
    message = f"imaging.finder.um_per_px: 2.0, but {tmp_path / 'w'} was trained at 4.0 µm/px"
    with pytest.raises(GlomflowError, match=re.escape(message)):
        load_finder(settings(), tmp_path / "w", tmp_path / "finder.json")
