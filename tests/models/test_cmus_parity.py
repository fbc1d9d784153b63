"""CMUS-Net's parity mode against values computed with the published arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from glomflow import config
from glomflow.models.batch import Batch
from glomflow.models.cmus_net import CmusNet
from glomflow.models.losses import Criterion
from glomflow.models.outputs import Outputs

PARAMETERS = {
    "cmsa.query.weight": "w_q",
    "cmsa.key.weight": "w_k",
    "cmsa.value.weight": "w_v",
    "cmsa.out.weight": "w_o",
    "cmsa.out.bias": "b_o",
    "branches.TEM.weight": "tem_head_w",
    "branches.TEM.bias": "tem_head_b",
    "branches.OM.weight": "om_head_w",
    "branches.OM.bias": "om_head_b",
    "branches.IM.weight": "im_head_w",
    "branches.IM.bias": "im_head_b",
    "fusion.0.weight": "fusion1_w",
    "fusion.0.bias": "fusion1_b",
    "fusion.3.weight": "fusion2_w",
    "fusion.3.bias": "fusion2_b",
}


CHANNELS = {"OM": 32, "IM": 32, "TEM": 32}


class Case:
    """A golden file, run through the model."""

    def __init__(self, path: Path) -> None:
        self.golden = dict(np.load(path, allow_pickle=False))
        smil = config.Smil(variant="distance", threshold=float(self.golden["t"]))
        self.model = CmusNet(config.Model(parity=True, smil=smil), CHANNELS, classes=3)
        self.model.load_state_dict(
            {name: torch.from_numpy(self.golden[key]) for name, key in PARAMETERS.items()}
        )
        self.model.eval()
        self.inputs = {
            name.upper(): torch.from_numpy(self.golden[name]).requires_grad_() for name in ("tem", "om", "im")
        }
        count = torch.from_numpy(self.golden["n_tem"])
        masks = {"TEM": torch.arange(self.inputs["TEM"].shape[1]) < count[:, None]}
        masks |= {name: torch.ones(len(count), 1, dtype=torch.bool) for name in ("OM", "IM")}
        maps = {
            "TEM": self.inputs["TEM"].permute(0, 1, 3, 4, 2),
            "OM": self.inputs["OM"].permute(0, 2, 3, 1)[:, None],
            "IM": self.inputs["IM"].permute(0, 2, 3, 1)[:, None],
        }
        self.batch = Batch(maps, masks)
        self.pooled = self.model.pool(self.batch)
        self.outputs: Outputs = self.model.classify(self.pooled)
        labels = torch.from_numpy(self.golden["label"])
        criterion = Criterion(config.Loss(), self.model.heads, summed=True)
        self.loss = self.model.loss(self.outputs, labels, criterion)
        self.loss.backward()


@pytest.fixture(params=["cmus-a.npz", "cmus-outliers.npz"])
def case(request: pytest.FixtureRequest, golden: Path) -> Case:
    torch.set_num_threads(1)
    return Case(golden / request.param)


FLOAT32_ROUNDING = 1e-7  # of sums of terms around 1; one golden branch keeps a single logit of 1e-3


def relative(ours: torch.Tensor, expected: np.ndarray) -> float:
    theirs = torch.from_numpy(np.asarray(expected))
    error = (ours.detach() - theirs).abs().max() - FLOAT32_ROUNDING
    return float(error / theirs.abs().max())


def test_pooled_tem(case: Case) -> None:
    ours = case.pooled.tokens["TEM"].transpose(1, 2).reshape(case.golden["x_tem"].shape)
    assert relative(ours, case.golden["x_tem"]) < 1e-5


@pytest.mark.parametrize("head", ["fusion", "TEM", "OM", "IM"])
def test_logits(case: Case, head: str) -> None:
    assert relative(case.outputs.logits[head], case.golden[f"logits_{head.lower()}"]) < 1e-5


def test_summed_loss(case: Case) -> None:
    assert relative(case.loss, case.golden["loss"]) < 1e-5


def test_gradients(case: Case) -> None:
    errors = {
        name: relative(case.model.get_parameter(name).grad, case.golden[f"grad_{key}"])
        for name, key in PARAMETERS.items()
    }
    errors |= {
        name: relative(value.grad, case.golden[f"grad_{name.lower()}"]) for name, value in case.inputs.items()
    }
    assert max(errors.values()) < 1e-4, errors


def test_corrected_model_differs(case: Case) -> None:
    corrected = CmusNet(config.Model(standardise=False), CHANNELS, classes=3)
    corrected.load_state_dict(case.model.state_dict())
    corrected.eval()
    ours = corrected(case.batch)
    assert relative(ours.logits["fusion"], case.golden["logits_fusion"]) > 1e-3
    assert bool((ours.logits["OM"] < 0).any())
