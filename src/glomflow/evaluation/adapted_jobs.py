"""The jobs of adapted vision-language models: encode once, adapt, predict."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from glomflow.config import Adapted, Config
from glomflow.config_vlm import VlmBackbone
from glomflow.errors import GlomflowError
from glomflow.evaluation.adapted import Grid, predict_features, predict_tuned
from glomflow.evaluation.draws import DRAWS, labelled_crops
from glomflow.files import write_json
from glomflow.imaging.crop_store import open_array, read_store, write_array
from glomflow.models.vlm.backbone import Backbone, load_backbone
from glomflow.models.vlm.image_backbone import ImageBackbone, pool_disc
from glomflow.models.vlm.methods.base import ClassText, class_text
from glomflow.models.vlm.methods.registry import TUNED_METHODS
from glomflow.models.vlm.prompts import Prompts, read_prompts
from glomflow.shots import left_out_shots, shots_of
from glomflow.tables import Column, Schema, read_table, write_table
from glomflow.training.features import resolve_device
from glomflow.training.seeds import deterministic
from glomflow.training.vlm_cache import ActivationCache, module_digest

Predicted = tuple[pd.DataFrame, pd.DataFrame, list[str]]
Predictor = Callable[[str, Adapted, Grid], Predicted]

_POOL_BLOCK = 256

ENCODED: Schema = {"crop": Column("string", "crop identifier, in the order of the features")}


class LabelledCrops:
    """The labelled crops of all shards as one array, read when asked for.

    Args:
        crops: Crop stores, one per shard.
        indices: Their indices.
        settings: The configuration; its classes decide which crops are labelled.

    Attributes:
        names: Crop identifiers, in the order of the array.
        classes: K classes.

    Raises:
        GlomflowError: The stores do not fit, or the crops cannot be classified.
    """

    def __init__(self, crops: Sequence[Path], indices: Sequence[Path], settings: Config) -> None:
        stores = [read_store(*paths) for paths in zip(crops, indices, strict=True)]
        self._arrays = [array for array, _ in stores]
        self._starts = np.cumsum([0, *(len(array) for array in self._arrays)])
        used, self.classes = labelled_crops(
            pd.concat([index for _, index in stores], ignore_index=True), settings.few_shot
        )
        self.names: list[str] = used["crop"].tolist()
        self._rows = used.index.to_numpy()

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, 3)."""
        return (len(self._rows), *self._arrays[0].shape[1:])

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Returns some of the crops, (len(rows), H, W, 3) uint8."""
        return self.taken(self._arrays, rows)

    def taken(self, arrays: Sequence[NDArray[Any]], rows: NDArray[np.int64]) -> NDArray[Any]:
        """Returns what arrays of the same shards hold for some of the crops.

        Args:
            arrays: One per shard, rows as in its crop store.
            rows: (n,) which crops.

        Raises:
            GlomflowError: An array has another number of rows than its crop store.
        """
        sizes, wanted = [len(array) for array in arrays], np.diff(self._starts).tolist()
        if sizes != wanted:
            raise GlomflowError(f"features of {sizes} rows for crop stores of {wanted}; make them again")
        places = self._rows[rows]
        shards = np.searchsorted(self._starts, places, side="right") - 1
        result = np.empty((len(places), *arrays[0].shape[1:]), arrays[0].dtype)
        for shard in np.unique(shards):
            here = shards == shard
            result[here] = arrays[shard][places[here] - self._starts[shard]]
        return result


@dataclass(frozen=True)
class Job:
    """What the jobs of one backbone share.

    Attributes:
        settings: The configuration.
        backbone: Key of ``vlm.backbones``.
        crops: Crop stores, one per shard.
        indices: Their indices.
        phantom: Folder that the pretraining wrote, for ``weights: phantom``.
        threads: CPU threads.
        device: ``auto``, ``cpu`` or ``cuda``.
        maps: Feature maps of the backbone's encoder, one file per shard, if they are computed already.
    """

    settings: Config
    backbone: str
    crops: Sequence[Path]
    indices: Sequence[Path]
    phantom: Path | None = None
    threads: int = 1
    device: str = "auto"
    maps: Sequence[Path] = ()

    @classmethod
    def of(cls, files: Any, params: Any, threads: int) -> Job:
        """Reads what a rule passes: ``crops``, ``indices``, and ``phantom`` or ``maps`` if there are any."""
        settings = Config.model_validate(params.settings)
        phantom = [Path(path) for path in files.get("phantom", [])]
        return cls(
            settings,
            params.backbone,
            [Path(path) for path in files.crops],
            [Path(path) for path in files.indices],
            phantom[0].parent if phantom else None,
            threads,
            maps=[Path(path) for path in files.get("maps", [])],
        )

    @property
    def section(self) -> VlmBackbone:
        """The backbone's section of the configuration."""
        return self.settings.vlm.backbones[self.backbone]

    def labelled(self) -> LabelledCrops:
        """Opens the crops."""
        return LabelledCrops(self.crops, self.indices, self.settings)

    def load(self) -> Backbone:
        """Loads the backbone, which has a text tower."""
        return load_backbone(
            self.backbone,
            self.section,
            offline=self.settings.run.offline,
            device=resolve_device(self.device),
            phantom=self.phantom,
        )

    def load_encoder(self) -> ImageBackbone:
        """Loads the backbone, which has no text tower."""
        encoder = self.settings.encoder_named(self.section.encoder)
        offline = self.settings.run.offline
        backbone = ImageBackbone(self.backbone, self.section, encoder, offline=offline)
        return backbone.to(resolve_device(self.device))

    def prompts(self, classes: Sequence[str]) -> Prompts:
        """Reads the sentences of the classes."""
        return read_prompts(self.settings.vlm.labels).subset(classes)


def encode_crops(job: Job, features: Path, index: Path, description: Path) -> None:
    """Encodes the labelled crops with a frozen image tower.

    Args:
        job: The backbone and the crops.
        features: Unit features, float32 (n, D), ``.npy``.
        index: ENCODED.
        description: Digest of the tower's weights, and the preprocessing, JSON.
    """
    with deterministic(job.threads):
        labelled = job.labelled()
        if job.maps:
            found, said = _pooled(job, labelled)
        else:
            found, said = _encoded(job, labelled)
    write_array(features, found)
    write_table(index, pd.DataFrame({"crop": labelled.names}), ENCODED)
    size = {"crops": len(found), "dim": found.shape[1]}
    write_json(description, {"backbone": job.backbone, **said, **size})
    print(f"{job.backbone}: {len(found)} crops, {found.shape[1]} features each")


def _encoded(job: Job, labelled: LabelledCrops) -> tuple[NDArray[np.float32], dict[str, object]]:
    """Encodes crops; also returns what they were encoded with."""
    backbone = job.load() if job.section.has_text else job.load_encoder()
    cache = ActivationCache(None, batch_size=job.settings.vlm.batch_size)
    said: dict[str, object] = {
        "vision_sha256": module_digest(backbone.vision),
        "preprocessing": str(backbone.preprocessing),
    }
    if isinstance(backbone, Backbone):
        said["text_sha256"] = module_digest(backbone.text)
    return cache.features(backbone, labelled).numpy(), said


def _pooled(job: Job, labelled: LabelledCrops) -> tuple[NDArray[np.float32], dict[str, object]]:
    """Pools feature maps that were computed before, block by block."""
    arrays = [open_array(path, "features") for path in job.maps]
    rows, parts = np.arange(labelled.shape[0]), []
    for start in range(0, len(rows), _POOL_BLOCK):
        maps = torch.from_numpy(labelled.taken(arrays, rows[start : start + _POOL_BLOCK]))
        parts.append(pool_disc(maps.float(), job.section.disc))
    found = torch.nn.functional.normalize(torch.cat(parts), dim=1)
    encoder = job.settings.encoder_named(job.section.encoder)
    return found.numpy(), {"maps_of": encoder.name, "weights": encoder.weights, "disc": job.section.disc}


def read_features(features: Path, index: Path, labelled: LabelledCrops) -> torch.Tensor:
    """Reads what :func:`encode_crops` wrote.

    Returns:
        Unit features (n, D), in the order of the crops.

    Raises:
        GlomflowError: The two do not fit each other, or are of other crops.
    """
    crops = read_table(index, ENCODED)["crop"].tolist()
    table = torch.from_numpy(np.array(open_array(features, "features")))
    if len(table) != len(crops):
        raise GlomflowError(
            f"features {features} have {len(table)} rows, their index {index} has {len(crops)}; delete both "
            "and run again"
        )
    if crops != labelled.names:
        raise GlomflowError(f"features {features} are of other crops; delete them and run again")
    return table


def adapt(
    job: Job, models: Mapping[str, Adapted], draws: Path, features: Path, index: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Adapts a backbone in several ways, in all runs, and predicts the test crops.

    Args:
        job: The backbone and the crops.
        models: The adapted models by name.
        draws: DRAWS.
        features: Written by :func:`encode_crops`.
        index: Written by :func:`encode_crops`.

    Returns:
        FEW_SHOT rows with ``p_<class>`` columns, and GEOMETRY rows.

    Raises:
        GlomflowError: Files do not fit each other, prompts are missing, or a method cannot be run.
    """
    drawn, labelled = read_table(draws, DRAWS), job.labelled()
    table, parts = read_features(features, index, labelled), []
    with deterministic(job.threads), tempfile.TemporaryDirectory(dir=features.parent) as folder:
        predict = _predictor(job, labelled, table, Path(folder))
        for name, model in models.items():
            grid = Grid(
                drawn,
                labelled.names,
                labelled.classes,
                shots_of(model.method, job.settings.few_shot.shots),
                job.settings.run.seed,
                allow_fewer=job.settings.few_shot.allow_fewer,
                umap=job.settings.vlm.umap,
                bins=job.settings.evaluation.ece_bins,
            )
            found = predict(name, model, grid)
            left_out = left_out_shots(model.method, job.settings.few_shot.shots)
            for remark in [*left_out, *found[2]]:
                print(f"{name}: {remark}")
            print(f"{name}: {model.method} in {len(grid.numbers())} runs", flush=True)
            parts.append(found)
    return (
        pd.concat([part[0] for part in parts], ignore_index=True),
        pd.concat([part[1] for part in parts], ignore_index=True),
    )


def _predictor(job: Job, crops: LabelledCrops, table: torch.Tensor, folder: Path) -> Predictor:
    """Returns what adapts the backbone in one way; without a text tower, no prompts and no model are read."""
    if not job.section.has_text:
        none = ClassText.none(len(crops.classes), table.shape[1])
        return lambda name, model, grid: predict_features(name, model, grid, table, none)
    backbone, prompts = job.load(), job.prompts(crops.classes)
    hidden = _activations(job, backbone, crops, table, folder)
    text = class_text(prompts, backbone)

    def predict(name: str, model: Adapted, grid: Grid) -> Predicted:
        if model.method in TUNED_METHODS:
            return predict_tuned(name, model, grid, backbone, hidden, prompts)
        return predict_features(name, model, grid, table, text)

    return predict


def _activations(
    job: Job, backbone: Backbone, crops: LabelledCrops, table: torch.Tensor, folder: Path
) -> Callable[[int | None], NDArray[np.float32]]:
    """Returns what gives the crops' state before a block; kept on disk while the job runs."""
    cache = ActivationCache(folder, batch_size=job.settings.vlm.batch_size)

    def before(block: int | None) -> NDArray[np.float32]:
        return table.numpy() if block is None else cache.hidden(backbone, crops, block)

    return before
