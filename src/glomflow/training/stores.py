"""The stores that a training or prediction job was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from glomflow.tables import MODALITIES
from glomflow.training.data import StoreRef


def stores_from_files(files: Mapping[str, str | Sequence[str]]) -> dict[str, list[StoreRef]]:
    """Groups a job's input files into stores.

    Args:
        files: Named inputs: per modality ``<modality>_index`` with ``<modality>_crops`` or, where they are
            cached, ``<modality>_features``, each a list with one file per shard; others are ignored.
            Without crops the features stand in their place, which no frozen encoder reads.

    Returns:
        The stores of each modality that has any, shards in the order given.
    """
    stores = {}
    for modality in MODALITIES:
        name = modality.lower()
        if f"{name}_index" not in files:
            continue
        parts = [paths_of(files.get(f"{name}_{part}", ())) for part in ("crops", "index", "features")]
        crops, index, features = parts
        cached: Sequence[Path | None] = features or [None] * len(index)
        stores[modality] = [StoreRef(*shard) for shard in zip(crops or features, index, cached, strict=True)]
    return stores


def paths_of(value: str | Sequence[str]) -> list[Path]:
    """Returns the files of a job's input or output, which is a text where there is only one.

    Args:
        value: One path, or several.
    """
    return [Path(value)] if isinstance(value, str) else [Path(path) for path in value]
