"""Maps of how close the patches of some test glomeruli are to the texts of the classes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from glomflow.errors import GlomflowError
from glomflow.evaluation.adapted_jobs import Job, LabelledCrops, read_features
from glomflow.evaluation.draws import DRAWS
from glomflow.files import write_json
from glomflow.imaging.crop_store import write_array
from glomflow.models.vlm.backbone import Backbone
from glomflow.models.vlm.dense import text_maps
from glomflow.models.vlm.prompts import encode_prompts
from glomflow.tables import SIMILARITY, Column, read_table, write_table
from glomflow.training.seeds import deterministic

Maps = tuple[NDArray[np.float32], pd.DataFrame, str]
"""Maps (n, K, rows, columns), SIMILARITY rows with ``c_<class>``, and why there are none, or ''."""


def chosen_crops(predicted: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Chooses of each class a glomerulus that is classified rightly and one that is not.

    Args:
        predicted: Columns crop, label and predicted.
        classes: Classes, in order.

    Returns:
        Of each class the first right and the first wrong row, where there is one, in the order of the
        SHA-256 of the crop's name.
    """
    order = predicted["crop"].map(lambda name: hashlib.sha256(str(name).encode()).hexdigest())
    ordered = predicted.iloc[np.argsort(order.to_numpy(dtype=str), kind="stable")]
    right = ordered["label"] == ordered["predicted"]
    parts = [
        ordered[(ordered["label"] == name) & (right == wanted)].head(1)
        for name in classes
        for wanted in (True, False)
    ]
    return pd.concat(parts, ignore_index=True)


def similarity_maps(job: Job, draws: Path, features: Path, index: Path) -> Maps:
    """Compares the patches of some test glomeruli of the first run with the texts of the classes.

    The model is frozen: predictions are those of zero-shot classification.

    Args:
        job: The backbone, the crops and the prompts.
        draws: DRAWS.
        features: Unit features of the labelled crops.
        index: Their crops.

    Returns:
        Maps, rows and a remark. Where the backbone has no text, or its patches cannot be sent through the
        head, maps and rows are empty and the remark says why.

    Raises:
        GlomflowError: Files do not fit each other, or prompts are missing.
    """
    drawn, labelled = read_table(draws, DRAWS), job.labelled()
    table = read_features(features, index, labelled)
    with deterministic(job.threads), torch.no_grad():
        if not job.section.has_text:
            return _none(labelled, f"{job.backbone} has no text tower to compare its patches with")
        backbone = job.load()
        text = encode_prompts(job.prompts(labelled.classes), backbone).text.float().cpu()
        rows, places = _rows(drawn, table, text, labelled)
        try:
            maps = _batches(job, backbone, labelled, places, text)
        except GlomflowError as error:
            return _none(labelled, str(error))
    boxes = backbone.preprocessing.seen(*labelled.shape[1:3])
    return maps, rows.assign(**dict(zip(("x", "y", "width", "height"), boxes, strict=True))), ""


def _rows(
    drawn: pd.DataFrame, table: torch.Tensor, text: torch.Tensor, labelled: LabelledCrops
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Returns the chosen crops with their cosines, and their places among the labelled ones."""
    place_of = {crop: place for place, crop in enumerate(labelled.names)}
    test = drawn[(drawn["run"] == drawn["run"].min()) & (drawn["split"] == "test")]
    places = np.array([place_of[crop] for crop in test["crop"]], dtype=np.int64)
    cosines = (table[torch.from_numpy(places)].float() @ text.T).numpy().astype(np.float64)
    rows = test[["crop", "slide", "label"]].assign(
        predicted=np.array(labelled.classes)[cosines.argmax(axis=1)],
        **{f"c_{name}": cosines[:, number] for number, name in enumerate(labelled.classes)},
    )
    chosen = chosen_crops(rows, labelled.classes)
    shown = np.array([place_of[crop] for crop in chosen["crop"]], dtype=np.int64)
    return chosen.assign(row=np.arange(len(chosen))), shown


def _batches(
    job: Job, backbone: Backbone, labelled: LabelledCrops, places: NDArray[np.int64], text: torch.Tensor
) -> NDArray[np.float32]:
    parts, size = [], job.settings.vlm.batch_size
    for start in range(0, len(places), size):
        images = torch.from_numpy(labelled[places[start : start + size]])
        pixels = backbone.preprocess(images.to(backbone.logit_scale.device))
        parts.append(text_maps(backbone, pixels, text).numpy())
    return np.concatenate(parts)


def _none(labelled: LabelledCrops, remark: str) -> Maps:
    columns = [*SIMILARITY, *(f"c_{name}" for name in labelled.classes)]
    return np.zeros((0, len(labelled.classes), 1, 1), np.float32), pd.DataFrame(columns=columns), remark


def write_similarity(found: Maps, backbone: str, maps: Path, index: Path, said: Path) -> None:
    """Writes what :func:`similarity_maps` returns.

    Args:
        found: Maps, rows and remark.
        backbone: Key of ``vlm.backbones``.
        maps: float32 (n, K, rows, columns), ``.npy``.
        index: SIMILARITY with ``c_<class>``, in the order of the maps' second axis.
        said: JSON with the keys ``backbone``, ``remark``, ``glomeruli`` and ``grid``.
    """
    values, rows, remark = found
    names = [column[2:] for column in rows.columns if column.startswith("c_")]
    extra = {f"c_{name}": Column("float64", f"cosine with the text of {name}") for name in names}
    write_array(maps, values)
    write_table(index, rows, SIMILARITY, extra)
    told = {"backbone": backbone, "remark": remark, "glomeruli": len(rows), "grid": list(values.shape[2:])}
    write_json(said, told)
    print(f"{backbone}: {remark or f'{len(rows)} glomeruli, maps of {values.shape[2]} x {values.shape[3]}'}")
