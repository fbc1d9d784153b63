"""Every pooling with every attention between modalities, and every further switch of the network.

Each combination learns, ignores padding and the order of instances, takes any subset of modalities,
repeats itself under a seed, and never waits for the device.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, get_args

import pytest
import torch

from glomflow import config
from glomflow.config_models import Pooling
from glomflow.models.build import build_net
from glomflow.models.cmus_net import CmusNet
from glomflow.models.losses import Criterion
from models.bags import ALL, on_device, random_batch, rearranged, without

CHANNELS = {"OM": 16, "IM": 16, "TEM": 16}
MIXED = {"OM": 8, "IM": 16, "TEM": 12}
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
ATTENTIONS = ("cmsa", "none", "self", "modality", "cross")
POOLINGS = get_args(Pooling)


def smil(variant: str) -> dict[str, Any]:
    return {"variant": variant, "width": 8, "k": 2}


CASES: dict[str, dict[str, Any]] = {
    **{
        f"{pooling}-{attention}": {"smil": smil(pooling), "cmsa": {"variant": attention}}
        for pooling in POOLINGS
        for attention in ATTENTIONS
    },
    **{name: {"modalities": [name]} for name in ALL},
    **{"+".join(pair): {"modalities": list(pair)} for pair in combinations(ALL, 2)},
    "self-TEM": {"modalities": ["TEM"], "cmsa": {"variant": "self"}},
    "cross-OM+IM": {"modalities": ["OM", "IM"], "cmsa": {"variant": "cross"}},
    "bags": {"om_bag": smil("gated_abmil"), "im_bag": smil("transmil"), "smil": smil("sparsemax")},
    "ordinal": {"ordinal": True},
    "ordinal-abmil": {"ordinal": True, "smil": smil("abmil")},
    "width": {"width": 8, "smil": smil("abmil")},
    "width-cross": {"width": 8, "cmsa": {"variant": "cross"}, "absent": "learned"},
    **{
        f"learned-{attention}": {"absent": "learned", "cmsa": {"variant": attention}}
        for attention in ATTENTIONS
    },
    "hidden": {"modality_dropout": 0.3},
    "hidden-learned-cross": {"modality_dropout": 0.3, "absent": "learned", "cmsa": {"variant": "cross"}},
    "uncertainty": {"loss": {"weighting": "uncertainty"}},
    "focal": {"loss": {"focal_gamma": 2.0}},
    "smoothing": {"loss": {"label_smoothing": 0.1}},
    "ordinal-focal-smoothing": {"ordinal": True, "loss": {"focal_gamma": 1.0, "label_smoothing": 0.1}},
    "uncertainty-focal": {"loss": {"weighting": "uncertainty", "focal_gamma": 2.0}, "absent": "learned"},
}
EACH_VARIANT = [f"{pooling}-cmsa" for pooling in POOLINGS] + [f"abmil-{each}" for each in ATTENTIONS[1:]]
FURTHER = [name for name in CASES if "-" not in name or name.split("-")[0] not in POOLINGS]

every_case = pytest.mark.parametrize("case", CASES)
some_cases = pytest.mark.parametrize("case", [*EACH_VARIANT, *FURTHER])


def build(case: str, **options: Any) -> tuple[CmusNet, Criterion]:
    torch.manual_seed(0)
    section = {"hidden": 16, "dropout": 0.0, "loss": {}, **CASES[case], **options}
    model = config.Model.model_validate(section)
    net = build_net(model, channels(case), 3)
    assert isinstance(net, CmusNet)
    assert model.loss is not None
    return net, Criterion(model.loss, net.heads)


def channels(case: str) -> dict[str, int]:
    return MIXED if "width" in CASES[case] else CHANNELS


def batch_of(case: str, **options: Any) -> Any:
    counts = {"OM": [3, 1, 2, 4, 2, 1], "IM": [2, 3, 1, 1, 4, 2]} if case == "bags" else None
    return random_batch(6, channels(case), counts=counts, **options)


def step(case: str, **options: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Returns the loss and the gradients of one training step on patients some of whom lack something."""
    net, criterion = build(case, **options)
    given = without(batch_of(case), {"OM": [1], "IM": [2], "TEM": [3]})
    loss = net.loss(net.train()(given), LABELS, criterion)
    loss.backward()
    parameters = [*net.named_parameters(), *criterion.named_parameters()]
    missed = [name for name, parameter in parameters if parameter.grad is None]
    assert not missed
    return float(loss.detach()), {name: parameter.grad for name, parameter in parameters}  # type: ignore[misc]


@every_case
def test_every_parameter_gets_a_gradient(case: str) -> None:
    loss, gradients = step(case)
    assert loss == loss
    for name, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), name
        assert bool((gradient != 0).any()), name


@some_cases
def test_a_step_repeats_itself_under_a_seed(case: str) -> None:
    first = step(case, dropout=0.5)
    again = step(case, dropout=0.5)
    assert first[0] == again[0]
    assert all(torch.equal(gradient, again[1][name]) for name, gradient in first[1].items())


@every_case
def test_a_small_batch_is_learned_by_heart(case: str) -> None:
    net, criterion = build(case)
    given = batch_of(case)
    optimiser = torch.optim.Adam([*net.parameters(), *criterion.parameters()], lr=0.03)

    def judged() -> float:
        return float(net.eval().loss(net(given), LABELS, criterion.eval()).detach())

    before = judged()
    for _ in range(25):
        optimiser.zero_grad()
        net.train().loss(net(given), LABELS, criterion.train()).backward()
        optimiser.step()
    assert net.eval().predict(given).argmax(1).tolist() == LABELS.tolist()
    least = 1.2 * criterion.settings.label_smoothing * before  # smoothed labels leave a loss
    assert judged() < 0.3 * before + 4.0 * least


@every_case
def test_padding_and_order_change_nothing(case: str) -> None:
    net, _ = build(case)
    given = batch_of(case)
    changed = rearranged(given, keep_first=case.startswith("first"))
    expected, ours = net.eval()(given), net(changed)
    torch.testing.assert_close(ours.logits, expected.logits, rtol=1e-4, atol=1e-5)
    for name, weights in ours.weights.items():
        assert not weights[~changed.masks[name]].any()
        assert not (ours.kept[name] & ~changed.masks[name]).any()
        torch.testing.assert_close(
            weights.sort(1, descending=True).values[:, : expected.weights[name].shape[1]],
            expected.weights[name].sort(1, descending=True).values,
            rtol=1e-4,
            atol=1e-5,
        )


@every_case
def test_any_modalities_may_be_missing(case: str) -> None:
    net, _ = build(case)
    given = batch_of(case)
    lacking = {"OM": [0, 1, 2, 5], "IM": [0, 1, 3, 5], "TEM": [0, 2, 3]}
    outputs = net.eval()(without(given, lacking))
    strange = net(without(given, lacking, garbage=1e4))
    full = net(given)
    torch.testing.assert_close(strange.logits, outputs.logits, rtol=0.0, atol=0.0)
    has = {name: [place not in patients for place in range(6)] for name, patients in lacking.items()}
    anything = [any(has[name][place] for name in net.modalities) for place in range(6)]
    assert outputs.present["fusion"].tolist() == anything
    torch.testing.assert_close(outputs.logits["fusion"][4], full.logits["fusion"][4], rtol=1e-4, atol=1e-5)
    for name in net.modalities:
        assert outputs.present[name].tolist() == has[name]
        assert not outputs.weights[name][lacking[name]].any()
    for values in outputs.logits.values():
        assert torch.isfinite(values).all()


@some_cases
def test_no_step_waits_for_the_device(case: str) -> None:
    """On torch's meta device there are no values: whatever asks for one fails."""
    net, criterion = build(case)
    outputs = net.to("meta").train()(on_device(batch_of(case), "meta"))
    loss = net.loss(outputs, LABELS.to("meta"), criterion.to("meta"))
    loss.backward()
    assert outputs.logits["fusion"].shape == (6, 3)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_static_where_nothing_is_learned(pooling: str) -> None:
    net, _ = build(f"{pooling}-cmsa")
    assert net.static_pooling is (pooling in ("distance", "sum", "mean", "max", "first"))
    assert net.static_pooling is not any(True for _ in net.pooling.parameters())
