"""Image encoders: any timm model as a map from an image to its last feature map."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.encoder_weights import (
    ADVICE,
    file_state,
    gated,
    hub_state,
    load_state,
    package_state,
    plain_name,
    timm_cached_file,
)
from glomflow.models.torchvision_compat import import_timm

_HELD = "momentum_outside_recomputation"


class Encoder(nn.Module):
    """A feature extractor with channels-last output.

    Args:
        network: Made by timm with ``features_only``, or a :class:`NormedMap`: returns a list with one map.
        settings: The encoder's section of the configuration.

    Attributes:
        channels: C of the feature map.
        fixed_size: Edge that the images must have, or None if any will do.
    """

    def __init__(self, network: Any, settings: config.Encoder) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.name = settings.name
        self.channels = int(network.feature_info.channels()[-1])
        self.fixed_size = _fixed_size(network, settings)
        self._channels_last = "NHWC" in str(getattr(network, "output_fmt", "NCHW"))
        self._handles: list[Any] = []
        for parameter in network.parameters():
            parameter.requires_grad_(settings.trainable == "all")
        if settings.trainable == "last":
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

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Recomputes activations in the backward pass instead of keeping them: less memory, more time.

        Gradients and running statistics are those of a plain pass: a batch is counted once.

        Args:
            on: Whether to.

        Raises:
            GlomflowError: timm has no checkpointing for this model.
        """
        parts = (self.network, getattr(self.network, "model", None))
        owner = next((part for part in parts if hasattr(part, "set_grad_checkpointing")), None)
        try:
            if owner is None:
                raise NotImplementedError("it has no set_grad_checkpointing")
            owner.set_grad_checkpointing(on)
        except (AssertionError, NotImplementedError) as error:
            raise GlomflowError(
                f"diagnosis.training.gradient_checkpointing: timm has none for {self.name} ({error}); set it "
                "to false, or choose another encoder"
            ) from error
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for module in self.network.modules() if on else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                self._handles.append(module.register_forward_pre_hook(_hold_statistics))
                self._handles.append(module.register_forward_hook(_release_statistics, always_call=True))


class NormedMap(nn.Module):
    """The last feature map of a model that normalises it before its classifier, as ViT and Swin do.

    timm's own extractors leave that normalisation out; the published network and the pathology
    encoders' authors use it.

    Args:
        model: The whole timm model; its classifier is taken off.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        model.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
        self.model = model
        last = len(model.feature_info) - 1
        self.feature_info = import_timm().models.FeatureInfo(model.feature_info, out_indices=(last,))
        self.pretrained_cfg = model.pretrained_cfg

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns a list with one map, (B, C, h, w), without class and register tokens."""
        maps: list[Tensor] = self.model.forward_intermediates(
            images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return maps


def build_encoder(settings: config.Encoder, *, offline: bool = True, stride: int | None = None) -> Encoder:
    """Builds the encoder that the configuration names, with its weights.

    Args:
        settings: The encoder's section of the configuration.
        offline: Never reach for the internet.
        stride: The feature map whose cells are so many px apart, the last such; None: the last map.

    Returns:
        The encoder, in evaluation mode.

    Raises:
        GlomflowError: The name, the options or the weights cannot be used; the message names the key.
    """
    source, _, argument = settings.weights.partition(":")
    if source == "timm":
        network = _timm_pretrained(settings, offline, stride)
    else:
        network = _network(settings, stride)
        if source == "package":
            load_state(network, package_state(settings.name, argument), settings.weights)
        elif source == "file":
            load_state(network, file_state(Path(argument), settings.sha256), settings.weights)
        elif source == "hub":
            state = hub_state(argument, settings.sha256, offline=offline)
            load_state(network, state, settings.weights)
        elif source != "random":
            raise GlomflowError(
                f"encoder.weights: '{settings.weights}' is not one of package:<module>, file:<path>, "
                "hub:<owner>/<name>, timm, random"
            )
    encoder = Encoder(network, settings)
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

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Does :meth:`Encoder.set_gradient_checkpointing` for every encoder."""
        for encoder in self.encoders.values():
            cast(Encoder, encoder).set_gradient_checkpointing(on)

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


def _network(settings: config.Encoder, stride: int | None, **loading: Any) -> Any:
    """Builds the feature extractor; ``loading``: where timm shall take weights from, if from anywhere."""
    timm = import_timm()
    name = settings.name
    _check_name(name)
    options = _options(settings)
    try:
        with torch.random.fork_rng(devices=[]):
            with torch.device("meta"):  # to look at: nothing is allocated
                whole = timm.create_model(name, **options)
            place = -1 if stride is None else _map_of_stride(whole, name, stride)
            torch.manual_seed(0)  # jobs of different shards must draw the same random weights
            if place == -1 and _normalises(whole):
                return NormedMap(timm.create_model(name, **options, **loading))
            return timm.create_model(name, features_only=True, out_indices=(place,), **options, **loading)
    except (AttributeError, NotImplementedError, AssertionError, TypeError) as error:
        if settings.options:
            raise GlomflowError(
                f"encoder.options: timm cannot build '{name}' with {', '.join(settings.options)} ({error}); "
                "correct the option's name or value, or take it out"
            ) from error
        raise GlomflowError(
            f"encoder.name: timm cannot give feature maps of '{name}' ({error}); choose another model"
        ) from error


def _map_of_stride(whole: Any, name: str, stride: int) -> int:
    """Returns the place of the last feature map of a stride, -1 if it is the last of all."""
    strides = [int(info["reduction"]) for info in whole.feature_info]
    if stride not in strides:
        known = ", ".join(map(str, dict.fromkeys(strides)))
        raise GlomflowError(f"stride: {name} has feature maps of stride {known}, none of {stride}")
    place = max(place for place, found in enumerate(strides) if found == stride)
    return -1 if place == len(strides) - 1 else place


def _check_name(name: str) -> None:
    timm = import_timm()
    if ":" in name:
        repository = name.partition(":")[2]
        raise GlomflowError(
            f"encoder.name: '{name}' is where weights are; name the timm architecture, such as "
            f"vit_large_patch16_224, with encoder.options where the model's page gives any, and set "
            f"encoder.weights to 'hub:{repository}' or 'file:<path>'"
        )
    base = name.partition(".")[0]
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), n=3)
        advice = f"; did you mean one of {', '.join(near)}" if near else ""
        raise GlomflowError(f"encoder.name: timm has no model '{name}'{advice}")


def _normalises(whole: Any) -> bool:
    norm = getattr(whole, "norm", None)
    return isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity)


def _options(settings: config.Encoder) -> dict[str, Any]:
    """Returns the options as timm takes them: an MLP as a class."""
    options: dict[str, Any] = dict(settings.options)
    if "mlp_layer" in options:
        layers = import_timm().layers
        known = [name for name in dir(layers) if name.endswith("Mlp") or name.startswith("SwiGLU")]
        if options["mlp_layer"] not in known:
            raise GlomflowError(
                f"encoder.options.mlp_layer: '{options['mlp_layer']}' is not one of {', '.join(known)}"
            )
        options["mlp_layer"] = getattr(layers, options["mlp_layer"])
    return options


def _fixed_size(network: Any, settings: config.Encoder) -> int | None:
    defaults = getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", {})
    if not defaults.get("fixed_input_size") or settings.options.get("dynamic_img_size"):
        return None
    return int(settings.options.get("img_size", defaults["input_size"][-1]))


def _timm_pretrained(settings: config.Encoder, offline: bool, stride: int | None) -> Any:
    name = settings.name
    _check_name(name)
    if offline:
        cached = timm_cached_file(name)
        if cached is None:
            raise GlomflowError(
                f"encoder.weights: timm's weights of '{name}' are not in the cache and run.offline is true; "
                f"{ADVICE}, or set run.offline to false once"
            )
        return _network(settings, stride, pretrained=True, pretrained_cfg_overlay={"file": str(cached)})
    from huggingface_hub.errors import GatedRepoError

    try:
        return _network(settings, stride, pretrained=True)
    except GatedRepoError as error:
        raise GlomflowError(gated(str(import_timm().get_pretrained_cfg(name).hf_hub_id))) from error
    except (OSError, RuntimeError) as error:
        raise GlomflowError(
            f"encoder.weights: timm's weights of '{name}' cannot be had ({error}); {ADVICE}"
        ) from error


def _hold_statistics(module: Any, _: Any) -> None:
    """Keeps running statistics as they are if the layer is run again by the backward pass."""
    if torch._C._current_graph_task_id() != -1 and module.training:
        setattr(module, _HELD, module.momentum)
        module.momentum = 0.0


def _release_statistics(module: Any, *_: Any) -> None:
    if hasattr(module, _HELD):
        module.momentum = getattr(module, _HELD)
        delattr(module, _HELD)
        if module.num_batches_tracked is not None:
            module.num_batches_tracked.sub_(1)


def _last_stage(network: Any) -> list[nn.Parameter]:
    """Returns the parameters behind the last feature map but one that has any behind it."""
    modules = [(plain_name(name) + "_", module) for name, module in network.named_modules()]
    stages = [plain_name(str(info["module"])) + "_" for info in network.feature_info.info]
    for stage in reversed(stages[:-1]):
        end = max((place for place, (name, _) in enumerate(modules) if name.startswith(stage)), default=-1)
        behind = [parameter for _, module in modules[end + 1 :] for parameter in module.parameters(False)]
        if behind:
            return behind
    return list(network.parameters())
