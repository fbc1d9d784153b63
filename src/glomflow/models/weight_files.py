"""Files of weights: read as safetensors or with ``weights_only``, never from a pickle."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from glomflow.errors import GlomflowError

State = dict[str, Tensor]

_NESTED_KEYS = ("state_dict", "model")


def read_state(path: Path, key: str) -> State:
    """Reads a safetensors file, or a checkpoint of tensors only.

    What a checkpoint nests in ``state_dict`` or ``model`` is unwrapped; what is no tensor (an epoch, say) is
    left out, and the ``module.`` that parallel training puts before names.

    Args:
        path: The file.
        key: Key of the configuration that names it, for messages.

    Raises:
        GlomflowError: It cannot be read so, or holds no tensor.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise GlomflowError(
            f"{key}: {path} cannot be read as safetensors or as a weights-only checkpoint ({error}); convert "
            "it to safetensors"
        ) from error
    for nested in _NESTED_KEYS:
        if isinstance(state, Mapping) and isinstance(state.get(nested), Mapping):
            state = state[nested]
    named = state if isinstance(state, Mapping) else {}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        raise GlomflowError(f"{key}: {path} is no table of named tensors; convert it to safetensors")
    return {name.removeprefix("module."): value for name, value in tensors.items()}
