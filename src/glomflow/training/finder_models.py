"""Finders to apply: trained here, or brought along as a TorchScript or ONNX file."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from glomflow.config_finder import ExternalFinder, Finder, FinderEncoder
from glomflow.errors import GlomflowError
from glomflow.files import read_json, sha256_file
from glomflow.models.encoders import preprocess
from glomflow.models.trained_weights import load_weights
from glomflow.models.unet import FinderNet, build_finder_net
from glomflow.training.features import resolve_device
from glomflow.training.finder_types import Bytes, GlomerulusModel

Maps = npt.NDArray[np.float32]


class TrainedFinder:
    """A network that was trained here.

    Args:
        net: The network with its weights.
        encoder: Mean and SD of the colours it was trained with.
        device: Where it runs.
        half: Run in bfloat16 on a GPU.
    """

    any_size = True
    name = "the trained finder"

    def __init__(self, net: FinderNet, encoder: FinderEncoder, device: torch.device, *, half: bool) -> None:
        self._net = net.to(device).eval()
        self._encoder = encoder
        self._device = device
        self._half = half and device.type == "cuda"
        self.any_size = net.fixed_size is None

    @torch.inference_mode()
    def predict(self, tiles: Bytes) -> Maps:
        """Predicts tiles, see :class:`GlomerulusModel`."""
        images = torch.from_numpy(np.ascontiguousarray(tiles)).to(self._device)
        inputs = preprocess(images, self._encoder.mean, self._encoder.std)
        with torch.autocast("cuda", dtype=torch.bfloat16) if self._half else nullcontext():
            logits: Tensor = self._net(inputs)
        maps = functional.interpolate(
            logits.float().sigmoid(), size=tiles.shape[1:3], mode="bilinear", align_corners=False
        )
        values: Maps = maps.cpu().numpy()
        return values


class TorchScriptFinder:
    """A TorchScript model.

    Args:
        path: The file.
        settings: How to feed it and how to read its output.
        device: Where it runs.

    Raises:
        GlomflowError: The file is no TorchScript model.
    """

    any_size = False

    def __init__(self, path: Path, settings: ExternalFinder, device: torch.device) -> None:
        self.name = str(path)
        self._settings = settings
        self._device = device
        try:
            self._module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError, OSError) as error:
            raise GlomflowError(
                f"imaging.finder.model: {path} is no TorchScript model ({_first_line(error)}); export it by "
                "torch.jit.trace or torch.jit.script and save it"
            ) from error
        self._module.eval()

    @torch.inference_mode()
    def predict(self, tiles: Bytes) -> Maps:
        """Predicts tiles, see :class:`GlomerulusModel`.

        Raises:
            GlomflowError: The model fails, or its output has another shape than it must have.
        """
        images = torch.from_numpy(np.ascontiguousarray(tiles)).to(self._device)
        try:
            output = self._module(preprocess(images, self._settings.mean, self._settings.std))
        except RuntimeError as error:
            raise _failed(self.name, tiles, error) from error
        array = output.float().cpu().numpy() if isinstance(output, Tensor) else None
        return _probabilities(array, self.name, tiles, self._settings)


class OnnxFinder:
    """An ONNX model, run by onnxruntime.

    Args:
        path: The file.
        settings: How to feed it and how to read its output.
        device: Where it runs; a GPU is used where onnxruntime has support for it.
        threads: CPU threads.

    Raises:
        GlomflowError: onnxruntime is not installed, or the file is no ONNX model with one input.
    """

    any_size = False

    def __init__(self, path: Path, settings: ExternalFinder, device: torch.device, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise GlomflowError(
                f"imaging.finder.model: {path} needs onnxruntime, which is not installed; "
                "run 'pip install glomflow[onnx]'"
            ) from error
        self.name = str(path)
        self._settings = settings
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
        there = set(onnxruntime.get_available_providers())
        providers = [name for name in wanted if name in there] + ["CPUExecutionProvider"]
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            # onnxruntime's exceptions share no base but Exception.
            raise GlomflowError(
                f"imaging.finder.model: {path} is no ONNX model that onnxruntime can run "
                f"({_first_line(error)}); export it again"
            ) from error
        inputs = [each.name for each in self._session.get_inputs()]
        if len(inputs) != 1:
            raise GlomflowError(
                f"imaging.finder.model: {path} has {len(inputs)} inputs ({', '.join(inputs)}); export it "
                "with one, the images (N, 3, tile, tile)"
            )
        self._input = inputs[0]

    def predict(self, tiles: Bytes) -> Maps:
        """Predicts tiles, see :class:`GlomerulusModel`.

        Raises:
            GlomflowError: The model fails, or its output has another shape than it must have.
        """
        inputs = preprocess(tiles, self._settings.mean, self._settings.std).numpy()
        try:
            output = self._session.run(None, {self._input: np.ascontiguousarray(inputs)})[0]
        except Exception as error:
            # As above.
            raise _failed(self.name, tiles, error) from error
        return _probabilities(output, self.name, tiles, self._settings)


def load_finder(
    settings: Finder,
    weights: Path | None = None,
    description: Path | None = None,
    *,
    device: str = "auto",
    threads: int = 1,
) -> GlomerulusModel:
    """Loads the finder that the configuration names.

    Args:
        settings: The section ``imaging.finder``.
        weights: Weights of a trained finder, safetensors; needed with ``model: train``.
        description: Its description, JSON, as :func:`glomflow.training.finder_fit.train_finder` wrote it.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads of an ONNX model; torch's are set by the caller.

    Returns:
        The finder.

    Raises:
        GlomflowError: A file is missing, damaged, of another digest or for another resolution.
    """
    target = resolve_device(device)
    source, _, file = settings.model.partition(":")
    if source == "file":
        path = _verified(Path(file), str(settings.sha256))
        if path.suffix == ".onnx":
            return OnnxFinder(path, settings.external, target, threads)
        return TorchScriptFinder(path, settings.external, target)
    if weights is None or description is None:
        raise GlomflowError(
            "imaging.finder.model: train: no trained finder is given; train one first, or name a model's file"
        )
    return _load_trained(settings, weights, description, target)


def _verified(path: Path, digest: str) -> Path:
    if not path.is_file():
        raise GlomflowError(f"imaging.finder.model: there is no file {path}; correct the path after 'file:'")
    found = sha256_file(path)
    if found != digest.lower():
        raise GlomflowError(
            f"imaging.finder.sha256: {path} has {found}, not {digest}; get the right file or correct "
            "imaging.finder.sha256"
        )
    return path


def _load_trained(settings: Finder, weights: Path, description: Path, device: torch.device) -> TrainedFinder:
    about = read_json(description)
    if about["um_per_px"] != settings.um_per_px:
        raise GlomflowError(
            f"imaging.finder.um_per_px: {settings.um_per_px}, but {weights} was trained at "
            f"{about['um_per_px']} µm/px; set that, or train again"
        )
    encoder = FinderEncoder(**about["encoder"])
    net = build_finder_net(encoder, pretrained=False)
    net.check_size("tile", settings.tile)
    try:
        net.load_state_dict(load_weights(weights), strict=True)
    except RuntimeError as error:
        raise GlomflowError(
            f"finder: {weights} cannot be loaded ({_first_line(error)}); delete it and train again"
        ) from error
    return TrainedFinder(net, encoder, device, half=settings.training.precision != "float32")


def _probabilities(output: Any, name: str, tiles: Bytes, settings: ExternalFinder) -> Maps:
    count, height, width = tiles.shape[:3]
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) != 4 or (shape[0], *shape[2:]) != (count, height, width) or shape[1] <= settings.channel:
        raise GlomflowError(
            f"imaging.finder.model: {name} gives an output of shape {shape or type(output).__name__} for "
            f"images of shape {(count, 3, height, width)}; it must be ({count}, channels, {height}, {width}) "
            f"with more than {settings.channel} channels (imaging.finder.external.channel)"
        )
    values = np.asarray(output, dtype=np.float32)
    if settings.activation == "softmax":
        values = np.exp(values - values.max(axis=1, keepdims=True))
        values /= values.sum(axis=1, keepdims=True)
    chosen: Maps = values[:, settings.channel : settings.channel + 1]
    if settings.activation == "sigmoid":
        chosen = (0.5 * (1.0 + np.tanh(0.5 * chosen))).astype(np.float32)
    # Written so that NaN fails too.
    if not (chosen.min() >= -1e-3 and chosen.max() <= 1.0 + 1e-3):
        raise GlomflowError(
            f"imaging.finder.model: {name} gives values from {chosen.min():g} to {chosen.max():g} where "
            "probabilities from 0 to 1 are expected; correct imaging.finder.external.activation"
        )
    return np.clip(chosen, 0.0, 1.0)


def _failed(name: str, tiles: Bytes, error: Exception) -> GlomflowError:
    count, height, width = tiles.shape[:3]
    return GlomflowError(
        f"imaging.finder.model: {name} fails on images of shape {(count, 3, height, width)} "
        f"({_first_line(error)}); set imaging.finder.tile to the size it takes, and export it for any "
        "number of images"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
