"""Weights of vision-language models: where they come from, and whether they are the right ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from torch import Tensor, nn

from glomflow.config_vlm import VlmBackbone
from glomflow.errors import GlomflowError
from glomflow.files import sha256_file


class Source:
    """A backbone's section of the configuration, for reading its files and for messages.

    Args:
        name: Key of the backbone.
        settings: Its section.
        offline: Never reach for the internet.
    """

    def __init__(self, name: str, settings: VlmBackbone, *, offline: bool) -> None:
        self.name = name
        self.settings = settings
        self.offline = offline
        self.kind, _, self.argument = settings.weights.partition(":")

    def key(self, key: str) -> str:
        """Returns a key of the section as the configuration spells it."""
        return f"vlm.backbones.{self.name}.{key}"

    def missing(self, reason: str, advice: str) -> NoReturn:
        """Raises the error for weights that cannot be had, with what the section says on access."""
        access = f" {self.settings.access}" if self.settings.access else ""
        raise GlomflowError(f"{self.key('weights')}: {reason}; {advice}{access and '.'}{access}")

    def checked(self, path: Path) -> Path:
        """Returns the path of a file of weights, if it is there and has the digest that is asked for.

        Raises:
            GlomflowError: It does not.
        """
        if not path.is_file():
            self.missing(f"there is no file {path}", "correct the path after 'file:'")
        digest = self.settings.sha256
        if digest is not None and (found := sha256_file(path)) != digest.lower():
            raise GlomflowError(
                f"{self.key('sha256')}: {path} has {found}, not {digest}; get the right file or correct "
                "sha256"
            )
        return path

    def hub_file(self, repository: str, files: Iterable[str]) -> Path:
        """Finds the first of some files of a hub repository, in the cache or on the internet.

        Raises:
            GlomflowError: It cannot be had; of a gated repository, the message says where to ask.
        """
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

        names = list(files)
        for file in names:
            found = try_to_load_from_cache(repository, file)
            if isinstance(found, str):
                return Path(found)
        if self.offline:
            self.missing(
                f"{repository} is not in the hub's cache and run.offline is true",
                "download it and name it as 'file:<path>', or set run.offline to false once",
            )
        for file in names:
            try:
                return Path(hf_hub_download(repository, file))
            except LocalEntryNotFoundError:
                self.missing(f"{repository} cannot be reached", "try again, or download it and name the file")
            except EntryNotFoundError:
                continue
            except GatedRepoError:
                self.missing(f"{repository} is gated", gated_advice(repository))
            except (OSError, RuntimeError, ValueError) as error:
                self.missing(f"{repository} cannot be had ({error})", "correct the name or name a file")
        return self.missing(
            f"{repository} has none of {', '.join(names)}", "download its weights and name them as 'file:'"
        )


def gated_advice(repository: str) -> str:
    """Says how to get what its owner gives on request only."""
    return (
        f"ask its owner for access at https://huggingface.co/{repository}, then log in with 'hf auth "
        "login', or download the weights from there and name them as 'file:<path>' with their sha256"
    )


def load_strictly(
    model: nn.Module, state: Mapping[str, Tensor], source: str, *, spare: str | None = None
) -> None:
    """Loads weights whose names and shapes are exactly the model's.

    Args:
        model: The model.
        state: Tensors by name.
        source: Where they are from, for messages.
        spare: Pattern of names that may be there besides and are left out.

    Raises:
        GlomflowError: Names or shapes differ; the message gives the first that do.
    """
    own = model.state_dict()
    given = {
        name: value
        for name, value in state.items()
        if name in own or spare is None or not re.fullmatch(spare, name)
    }
    differing = [f"{name} is not there" for name in own if name not in given]
    differing += [
        f"{name} is {_shape(given[name])} instead of {_shape(value)}"
        for name, value in own.items()
        if name in given and given[name].shape != value.shape
    ]
    differing += [f"{name} is not the architecture's" for name in given if name not in own]
    if differing:
        raise GlomflowError(
            f"{source} differs from the architecture in {len(differing)} of its tensors (first: "
            f"{', '.join(differing[:3])}); name the architecture that the weights are of"
        )
    model.load_state_dict(given, strict=True)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
