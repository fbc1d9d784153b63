"""Few-shot predictions of adapted vision-language models, on the draws that all methods share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from glomflow.config import Adapted
from glomflow.errors import GlomflowError
from glomflow.evaluation import metrics, vlm_metrics
from glomflow.evaluation.metrics import Floats
from glomflow.models.vlm.methods.base import ClassText, Shots
from glomflow.models.vlm.methods.registry import (
    FEATURE_METHODS,
    TUNED_METHODS,
    feature_method,
    tuned_method,
)
from glomflow.models.vlm.prompts import Prompts
from glomflow.shots import fewest_shots
from glomflow.tables import FEW_SHOT, GEOMETRY
from glomflow.training.seeds import derive_seed
from glomflow.training.vlm_batched import Fitted, fit
from glomflow.training.vlm_finetune import Activations, TunedRun, tune
from glomflow.training.vlm_shots import shots_of_draws


@dataclass(frozen=True)
class Grid:
    """The runs of an adapted model: every draw with every number of shots.

    Attributes:
        draws: DRAWS.
        crops: Crop identifiers, in the order of the features' rows.
        classes: K classes.
        shots: Numbers of shots; 0 for what needs none.
        seed: Seed of the few-shot experiment.
        allow_fewer: Go on where a class has fewer crops than shots.
        umap: Lay images and texts out by UMAP, too.
        bins: Bins of the calibration error.
    """

    draws: pd.DataFrame
    crops: Sequence[str]
    classes: Sequence[str]
    shots: Sequence[int]
    seed: int
    allow_fewer: bool = False
    umap: bool = False
    bins: int = 15

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {crop: place for place, crop in enumerate(self.crops)}

    def numbers(self) -> list[tuple[int, int]]:
        """Returns the (run, shots) of the grid, in the order that runs are fitted in."""
        runs = sorted(self.draws["run"].unique())
        return [(int(run), shots) for run in runs for shots in sorted(set(self.shots))]

    def rows(self, run: int, split: str) -> pd.DataFrame:
        """Returns the draws of one run and split, with the ``place`` of each crop among the features.

        Args:
            run: The run.
            split: ``train``, ``validation`` or ``test``.

        Raises:
            GlomflowError: A crop has no feature.
        """
        own = self.draws[(self.draws["run"] == run) & (self.draws["split"] == split)]
        places = self._places
        absent = sorted(set(own["crop"]) - set(places))
        if absent:
            raise GlomflowError(
                f"few-shot: crop '{absent[0]}' is drawn and has no features ({len(absent)} such); encode the "
                "crops again"
            )
        numbers = {name: number for number, name in enumerate(self.classes)}
        return own.assign(
            place=own["crop"].map(places).astype("int64"), number=own["label"].map(numbers).astype("int64")
        )

    def problem(self, *, validation: bool) -> Shots:
        """Returns what all runs may learn from.

        Args:
            validation: Whether validation crops are part of it.
        """
        used = self.draws if validation else self.draws[self.draws["split"] != "validation"]
        # What is run at 0 shots looks at no label; every problem has some all the same.
        shots = [count or fewest_shots(self.draws["shots"]) for count in self.shots]
        found, _ = shots_of_draws(
            used, self.crops, self.classes, shots, seed=self.seed, allow_fewer=self.allow_fewer
        )
        return found


def predict_features(
    name: str, settings: Adapted, grid: Grid, table: Tensor, text: ClassText
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Adapts a model that trains on cached features in all runs, and predicts the test crops.

    Args:
        name: Name of the adapted model.
        settings: Method, preset and selection.
        grid: The runs.
        table: (n, D) unit features of the frozen image tower.
        text: The classes by the frozen text tower.

    Returns:
        FEW_SHOT rows with ``p_<class>`` columns, GEOMETRY rows, and remarks for the log.

    Raises:
        GlomflowError: The method is not one on features, a setting is unknown, or a run lacks what it needs.
    """
    if settings.method not in FEATURE_METHODS:
        raise GlomflowError(f"few_shot.adapted.{name}: {settings.method} does not train on cached features")
    method = feature_method(settings.method, settings.preset, **settings.settings)
    validated = settings.selection == "validation"
    fitted = fit(method, table, grid.problem(validation=validated), text, selection=settings.selection)
    table = table.to(torch.float64)
    predicted, described = [], []
    for number, (run, shots) in enumerate(grid.numbers()):
        rows, row = judged(name, grid, run, shots, _Run(fitted, number, table, validated))
        predicted.append(rows)
        described.append(row)
    return _tables(grid, predicted, described, fitted.remarks)


def predict_tuned(
    name: str,
    settings: Adapted,
    grid: Grid,
    backbone: Any,
    activations: Callable[[int | None], Activations],
    prompts: Prompts,
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Fine-tunes a model in all runs, and predicts the test crops.

    Args:
        name: Name of the adapted model.
        settings: Method, preset, selection and precision.
        grid: The runs.
        backbone: The frozen model; it is left as it was.
        activations: Gives the images' state before a block of the image tower, or their unit features if
            there is none; rows as ``grid.crops``.
        prompts: The classes' sentences.

    Returns:
        FEW_SHOT rows with ``p_<class>`` columns, GEOMETRY rows, and remarks for the log.

    Raises:
        GlomflowError: The method does not fine-tune, a setting is unknown, or a run lacks what it needs.
    """
    if settings.method not in TUNED_METHODS:
        raise GlomflowError(f"few_shot.adapted.{name}: {settings.method} does not fine-tune a backbone")
    method = tuned_method(settings.method, settings.preset, **settings.settings)
    validated = settings.selection == "validation"
    hidden = activations(method.cut(backbone).vision)
    shots = grid.problem(validation=validated)
    runs = tune(
        method,
        backbone,
        hidden,
        shots,
        prompts,
        selection=settings.selection,
        precision=settings.precision,
    )
    predicted, described, remarks = [], [], []
    for (run, count), tuned in zip(grid.numbers(), runs, strict=True):
        rows, row = judged(name, grid, run, count, _Tuned(tuned, hidden, validated))
        predicted.append(rows)
        described.append(row)
        remarks += tuned.remarks
        print(f"{name}: run {run}, {count} shots, {tuned.epochs} epochs", flush=True)
    return _tables(grid, predicted, described, remarks)


def _tables(
    grid: Grid, predicted: list[pd.DataFrame], described: list[dict[str, object]], remarks: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    columns = [*FEW_SHOT, *(f"p_{label}" for label in grid.classes)]
    rows = pd.concat(predicted, ignore_index=True)[columns]
    return rows, pd.DataFrame(described, columns=list(GEOMETRY)), remarks


class AdaptedRun(Protocol):
    """What one run of an adapted model gives; images are named by their rows among the features."""

    @property
    def validated(self) -> bool:
        """Whether validation crops took part in its selection."""

    @property
    def epochs(self) -> int:
        """Epochs of which its weights are."""

    @property
    def score(self) -> float:
        """Macro AUC on validation crops; NaN without."""

    def logits(self, places: NDArray[np.int64]) -> Floats:
        """Returns (n, K)."""

    def space(self, places: NDArray[np.int64]) -> tuple[Floats, Floats | None]:
        """Returns the adapted features of images, (n, D), and of the classes, (K, D), if there is a text."""


class _Tuned:
    """One fine-tuned run; what was asked last is kept, since logits and features come together."""

    def __init__(self, run: TunedRun, activations: Activations, validated: bool) -> None:
        self._run, self._activations, self.validated = run, activations, validated
        self._last: tuple[bytes, tuple[Tensor, Tensor, Tensor]] | None = None

    @property
    def epochs(self) -> int:
        return self._run.epochs

    @property
    def score(self) -> float:
        return self._run.score

    def logits(self, places: NDArray[np.int64]) -> Floats:
        found: Floats = self._predicted(places)[0].numpy().astype(np.float64)
        return found

    def space(self, places: NDArray[np.int64]) -> tuple[Floats, Floats | None]:
        _, images, classes = self._predicted(places)
        return images.numpy().astype(np.float64), classes.numpy().astype(np.float64)

    def _predicted(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        if self._last is None or self._last[0] != places.tobytes():
            self._last = places.tobytes(), self._run.predict(self._activations, places)
        return self._last[1]


@dataclass(frozen=True)
class _Run:
    """One run of a method on features."""

    fitted: Fitted
    number: int
    table: Tensor
    validated: bool

    @property
    def epochs(self) -> int:
        return int(self.fitted.epochs[self.number])

    @property
    def score(self) -> float:
        return float(self.fitted.scores[self.number])

    def logits(self, places: NDArray[np.int64]) -> Floats:
        features = self.table[torch.tensor(places)]
        found: Floats = self.fitted.logits(features, [self.number])[0].cpu().numpy()
        return found

    def space(self, places: NDArray[np.int64]) -> tuple[Floats, Floats | None]:
        text = self.fitted.class_text(self.number)
        images = self.fitted.image_features(self.table[torch.tensor(places)], self.number)
        return images.cpu().numpy(), None if text is None else text.detach().cpu().numpy()


def judged(
    name: str, grid: Grid, run: int, shots: int, model: AdaptedRun
) -> tuple[pd.DataFrame, dict[str, object]]:
    """Predicts the test crops of one run.

    Args:
        name: Name of the adapted model.
        grid: The runs.
        run: The run.
        shots: Its number of shots.
        model: The fitted run.

    Returns:
        FEW_SHOT rows with ``p_<class>`` columns, and a row of GEOMETRY.
    """
    test = grid.rows(run, "test")
    places, truth = test["place"].to_numpy(), test["number"].to_numpy()
    logits = model.logits(places)
    probabilities = vlm_metrics.scale_temperature(logits)
    rows = test[["run", "crop", "slide", "label"]].assign(method=name, shots=shots)
    rows["predicted"] = np.array(grid.classes)[probabilities.argmax(axis=1)]
    images, texts = model.space(places)
    rows["own_cosine"] = rows["cosine_gap"] = np.nan
    if texts is not None:
        rows["own_cosine"], rows["cosine_gap"] = metrics.class_cosines(images, texts, truth)
    rows["silhouette"] = vlm_metrics.silhouettes(images, truth)
    rows[[f"p_{label}" for label in grid.classes]] = probabilities
    described: dict[str, object] = {
        "method": name,
        "shots": shots,
        "run": run,
        "epochs": model.epochs,
        "validation_auc": model.score,
        **_temperature(grid, run, model, logits, truth),
        "umap_text_distance": np.nan,
    }
    if grid.umap and texts is not None:
        seed = derive_seed(grid.seed, "umap", run, shots) % 2**31
        found = vlm_metrics.umap_text_distance(images, texts, truth, seed=seed)
        described["umap_text_distance"] = float(np.nanmean(found))
    return rows, described


def _temperature(
    grid: Grid, run: int, model: AdaptedRun, logits: Floats, truth: NDArray[np.int64]
) -> dict[str, float]:
    """Fits the temperature on validation crops and returns the test crops' calibration error with it."""
    held = grid.rows(run, "validation")
    if not model.validated or held.empty:
        return {"temperature": np.nan, "scaled_ece": np.nan}
    temperature = vlm_metrics.fit_temperature(
        model.logits(held["place"].to_numpy()), held["number"].to_numpy()
    )
    scaled = vlm_metrics.scale_temperature(logits, temperature)
    return {
        "temperature": temperature,
        "scaled_ece": float(metrics.ece(truth, scaled, bins=grid.bins)),
    }
