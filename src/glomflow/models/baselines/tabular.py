"""Models of one row of features per patient, in the form of a network so that they are used like one.

They have no trainable parameter: :mod:`glomflow.training.tabular` fits them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.base import PatientNet
from glomflow.models.batch import Batch, Pooled, mean_over_instances
from glomflow.models.outputs import Outputs


class TabularNet(PatientNet):
    """Describes a patient by each channel's mean and maximum over the tokens of all instances.

    Features stay as the encoder gives them (``standardise`` is not used), and ``smil``, ``om_bag`` and
    ``im_bag`` are not used either.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality of the model.
        classes: K.

    Attributes:
        features: F, columns of the table: mean and maximum of each channel of each modality.
    """

    def __init__(self, model: config.Model, channels: Mapping[str, int], classes: int) -> None:
        super().__init__(model.model_copy(update={"standardise": False}), channels, classes)
        self.features = 2 * sum(self.channels.values())

    @property
    def heads(self) -> tuple[str, ...]:
        """The only one is called 'fusion', as that of every model."""
        return ("fusion",)

    @property
    def static_pooling(self) -> bool:
        """Whether pooling has nothing to learn."""
        return True

    def pool(self, batch: Batch) -> Pooled:
        """Takes each channel's mean and maximum.

        Args:
            batch: Bags of feature maps.

        Returns:
            Two tokens (B, 2, C) per modality, the mean and the maximum; zeros where it is missing.
        """
        tokens, present, weights, kept = {}, {}, {}, {}
        for name in self.modalities:
            maps, mask = batch.maps[name], batch.masks[name]
            there = mask.any(1)
            mean = mean_over_instances(maps.mean((2, 3)), mask)
            highest = maps.amax((2, 3)).masked_fill(~mask[:, :, None], -torch.inf).amax(1)
            tokens[name] = torch.stack([mean, highest.masked_fill(~there[:, None], 0)], dim=1)
            present[name], kept[name] = there, mask
            weights[name] = mask / mask.sum(1, keepdim=True).clamp(min=1)
        return Pooled(tokens, present, weights, kept)

    def table(self, pooled: Pooled) -> Tensor:
        """Returns the (B, F) float64 features, modality by modality; NaN where one is missing.

        Args:
            pooled: Mean and maximum per patient and modality.

        Raises:
            GlomflowError: A feature of a modality that is there is not finite.
        """
        columns = []
        for name in self.modalities:
            tokens = pooled.tokens[name].double()
            if not bool(tokens.isfinite().all()):
                raise GlomflowError(
                    f"{name} features hold NaN or infinity; delete the features and run again, or look at "
                    "the patients' images"
                )
            columns.append(tokens.masked_fill(~pooled.present[name][:, None, None], torch.nan).flatten(1))
        return torch.cat(columns, dim=1)

    @abstractmethod
    def logits(self, table: Tensor, present: Tensor) -> Tensor:
        """Returns the (B, K) logits of a table (B, F); ``present`` (B, M) is bool."""

    def classify(self, pooled: Pooled) -> Outputs:
        """Runs the model on the patients' features.

        Args:
            pooled: Mean and maximum per patient and modality.

        Returns:
            Logits of the model.
        """
        present = {name: pooled.present[name] for name in self.modalities}
        there = torch.stack(list(present.values()), dim=1)
        logits = self.logits(self.table(pooled), there)
        return Outputs({"fusion": logits}, {**present, "fusion": there.any(1)}, pooled.weights, pooled.kept)


class LogisticNet(TabularNet):
    """Multinomial logistic regression on standardised features.

    A modality that a patient lacks is the mean of the training patients, which standardisation turns into
    zeros, and 1 in a column that says so.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality of the model.
        classes: K.
    """

    mean: Tensor
    scale: Tensor
    coef: Tensor
    intercept: Tensor

    def __init__(self, model: config.Model, channels: Mapping[str, int], classes: int) -> None:
        super().__init__(model, channels, classes)
        columns = self.features + len(self.modalities)
        self.register_buffer("mean", torch.zeros(self.features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(self.features, dtype=torch.float64))
        self.register_buffer("coef", torch.zeros(classes, columns, dtype=torch.float64))
        self.register_buffer("intercept", torch.zeros(classes, dtype=torch.float64))

    def logits(self, table: Tensor, present: Tensor) -> Tensor:
        """Returns the (B, K) logits."""
        standardised = torch.nan_to_num((table - self.mean) * self.scale, nan=0.0)
        columns = torch.cat([standardised, (~present).to(table.dtype)], dim=1)
        return columns @ self.coef.T + self.intercept


class BoosterNet(TabularNet):
    """Gradient-boosted trees (LightGBM; Ke et al., NeurIPS 2017), which take missing features as they are.

    The only weights are the text of the trees, UTF-8 in a uint8 tensor.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality of the model.
        classes: K.
    """

    booster: Tensor

    def __init__(self, model: config.Model, channels: Mapping[str, int], classes: int) -> None:
        super().__init__(model, channels, classes)
        self.register_buffer("booster", torch.zeros(0, dtype=torch.uint8))
        self._parsed: Any = None

    def set_trees(self, text: str) -> None:
        """Takes over trees.

        Args:
            text: A LightGBM model as text.
        """
        self.booster = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        self._parsed = None

    def logits(self, table: Tensor, present: Tensor) -> Tensor:
        """Returns the (B, K) log-probabilities."""
        chances = self._trees().predict(table.cpu().numpy(), num_threads=1)
        floor = np.finfo(np.float64).tiny
        return torch.from_numpy(np.log(np.maximum(chances, floor))).to(table.device)

    def _trees(self) -> Any:
        if self._parsed is None:
            import lightgbm

            text = self.booster.cpu().numpy().tobytes().decode()
            try:
                self._parsed = lightgbm.Booster(model_str=text)
            except lightgbm.basic.LightGBMError as error:
                raise GlomflowError(
                    f"gradient_boosting: the weights hold no trees ({error}); delete them and train again"
                ) from error
        return self._parsed

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Makes room first: how long the text is, is only known from the file."""
        text = state.get(f"{prefix}booster")
        if text is not None:
            self.booster = torch.empty_like(text, device=self.booster.device)
            self._parsed = None
        super()._load_from_state_dict(state, prefix, *rest)


TABULAR_NETS: Mapping[str, type[LogisticNet] | type[BoosterNet]] = {
    "logistic_regression": LogisticNet,
    "gradient_boosting": BoosterNet,
}
"""The network of each tabular ``kind``."""
