"""Baselines: gradients, convergence, masks, missing modalities, and what each does on literal numbers."""

from __future__ import annotations

import itertools

import pytest
import torch

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.base import PatientNet
from glomflow.models.baselines.late_fusion import LateFusion, soft_vote
from glomflow.models.baselines.mmformer import positions
from glomflow.models.baselines.transformer import GatedPooling, masked_mean
from glomflow.models.batch import Batch, concatenate
from glomflow.models.build import build_net
from glomflow.models.losses import Criterion
from glomflow.models.outputs import probabilities

CHANNELS = 8
ALL = ("OM", "IM", "TEM")
KINDS = ("late_fusion", "concatenation", "gated_unit", "coattention", "mmformer", "mdl_iia")
SUBSETS = [list(names) for size in (1, 2, 3) for names in itertools.combinations(ALL, size)]
BRANCHED = ("late_fusion", "mmformer")


def make_batch(patients: int = 4, *, lacking: dict[str, list[int]] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(0)
    maps, masks = {}, {}
    for name in ALL:
        longest = {"TEM": 5, "OM": 3, "IM": 2}[name]
        count = torch.tensor([1 + (place + 1) % longest for place in range(patients)])
        count[(lacking or {}).get(name, [])] = 0
        masks[name] = torch.arange(longest) < count[:, None]
        values = torch.randn(patients, longest, 3, 3, CHANNELS, generator=generator)
        maps[name] = values * masks[name][:, :, None, None, None]
    return Batch(maps, masks)


def make_net(kind: str, **options: object) -> PatientNet:
    torch.manual_seed(0)
    model = config.Model.model_validate({"kind": kind, "hidden": 16, **options})
    return build_net(model, dict.fromkeys(ALL, CHANNELS), 3).eval()


def criterion(net: PatientNet) -> Criterion:
    return Criterion(config.Loss(), net.heads)


def step(net: PatientNet, optimiser: torch.optim.Optimizer, batch: Batch, labels: torch.Tensor) -> float:
    loss = net.loss(net(batch), labels, criterion(net))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return float(loss.detach())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ordinal", [False, True])
def test_every_parameter_is_trained_and_a_small_batch_is_learnt(kind: str, ordinal: bool) -> None:
    net, batch, labels = (
        make_net(kind, dropout=0.0, ordinal=ordinal),
        make_batch(),
        torch.tensor([0, 1, 2, 0]),
    )
    optimiser = torch.optim.Adam(net.train().parameters(), lr=1e-2)
    losses = [step(net, optimiser, batch, labels) for _ in range(2)]
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
    losses += [step(net, optimiser, batch, labels) for _ in range(40)]
    assert losses[-1] < (0.8 if ordinal else 0.5) * losses[0]
    if not ordinal:  # thresholds take more steps to part
        assert net.eval().predict(batch).argmax(1).tolist() == labels.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["distance", "mean"])
def test_padding_order_and_company_change_nothing(kind: str, variant: str) -> None:
    net = make_net(kind, smil={"variant": variant})
    batch = make_batch(lacking={"OM": [1], "TEM": [2], "IM": [3]})
    expected = net.predict(batch)
    assert expected.dtype == torch.float64
    torch.testing.assert_close(expected.sum(1), torch.ones(4, dtype=torch.float64))
    for place in range(4):
        maps, masks = {}, {}
        for name in ALL:
            order = torch.argsort(~batch.masks[name][place], stable=True).flip(0)
            garbage = torch.full((1, 2, 3, 3, CHANNELS), 9.0)
            maps[name] = torch.cat([batch.maps[name][place : place + 1, order], garbage], 1)
            masks[name] = torch.cat([batch.masks[name][place, order], torch.zeros(2, dtype=torch.bool)])[None]
        torch.testing.assert_close(net.predict(Batch(maps, masks))[0], expected[place], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("present", [[], *SUBSETS], ids="+".join)
def test_what_a_patient_lacks_is_never_read(kind: str, present: list[str]) -> None:
    net, full = make_net(kind), make_batch()
    lacking = {name: list(range(4)) for name in ALL if name not in present}
    empty = make_batch(lacking=lacking)
    outputs = net(empty)
    assert all(values.isfinite().all() for values in outputs.logits.values())
    hidden = Batch(full.maps, empty.masks)
    torch.testing.assert_close(net.predict(hidden), probabilities(outputs))
    assert {name: bool(there.all()) for name, there in outputs.present.items()} == {
        **{name: name in present for name in ALL},
        "fusion": bool(present),
    }
    for name in ALL:
        assert outputs.weights[name].isfinite().all()
        assert not outputs.weights[name][~empty.masks[name]].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modalities", SUBSETS, ids="+".join)
def test_any_subset_of_modalities_is_a_model(kind: str, modalities: list[str]) -> None:
    net = make_net(kind, modalities=modalities)
    outputs = net(make_batch())
    assert outputs.logits["fusion"].shape == (4, 3)
    assert tuple(outputs.logits) == net.heads
    order = [name for name in ("TEM", "OM", "IM") if name in modalities]
    assert net.heads == ((*order, "fusion") if kind in BRANCHED else ("fusion",))
    assert set(outputs.present) == {*modalities, "fusion"}
    assert set(outputs.weights) == set(outputs.kept) == set(modalities)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_modality_passes_no_gradient(kind: str) -> None:
    net = make_net(kind).train()
    outputs = net(make_batch(lacking={"TEM": [0, 1, 2, 3]}))
    net.loss(outputs, torch.tensor([0, 1, 2, 0]), criterion(net)).backward()
    of_tem = [p.grad for name, p in net.named_parameters() if "TEM" in name and p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in of_tem)
    assert not any(gradient.any() for gradient in of_tem)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_modalities_are_neither_scored_nor_read(kind: str) -> None:
    net, batch = make_net(kind, modality_dropout=0.6, dropout=0.0).train(), make_batch()
    torch.manual_seed(1)
    outputs = net(batch)
    left = torch.stack([outputs.present[name] for name in ALL])
    assert left.any(0).all()
    assert not left.all()
    assert net.eval()(batch).present["TEM"].all()


@pytest.mark.parametrize("kind", ["concatenation", "gated_unit", "mdl_iia"])
def test_a_learned_stand_in_takes_the_place_of_what_is_missing(kind: str) -> None:
    net, batch = make_net(kind, absent="learned"), make_batch(lacking={"TEM": [0, 1, 2, 3]})
    outputs = net(batch)
    outputs.logits["fusion"].sum().backward()
    assert net.stand_ins["TEM"].grad.any()
    assert not net.stand_ins["OM"].grad.any()
    assert not outputs.present["TEM"].any()


@pytest.mark.parametrize("kind", ["late_fusion", "coattention", "mmformer"])
def test_models_that_mask_have_no_stand_in(kind: str) -> None:
    with pytest.raises(ValueError, match=f"absent: {kind} masks what a patient lacks; set absent: zeros"):
        make_net(kind, absent="learned")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["max", "top_k", "gated_abmil", "sparsemax", "transmil"])
def test_bags_are_pooled_as_the_model_says(kind: str, variant: str) -> None:
    net = make_net(kind, smil={"variant": variant, "width": 8}, im_bag={"variant": variant, "width": 8})
    outputs = net(make_batch(lacking={"TEM": [1]}))
    assert outputs.logits["fusion"].isfinite().all()
    sum(values.sum() for values in outputs.logits.values()).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    assert net.static_pooling == (variant == "max" and kind != "coattention")


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bits(kind: str) -> None:
    first, second = (make_net(kind, dropout=0.3).train() for _ in range(2))
    losses = []
    for net in (first, second):
        torch.manual_seed(3)
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
        losses.append([step(net, optimiser, make_batch(), torch.tensor([0, 1, 2, 0])) for _ in range(3)])
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_pooled_parts_join_to_the_whole(kind: str) -> None:
    net, batch = make_net(kind), make_batch(lacking={"OM": [0]})
    parts = []
    for rows in (slice(0, 2), slice(2, 4)):
        longest = {name: int(mask[rows].sum(1).max()) for name, mask in batch.masks.items()}
        maps = {name: values[rows, : longest[name]] for name, values in batch.maps.items()}
        masks = {name: mask[rows, : longest[name]] for name, mask in batch.masks.items()}
        parts.append(net.pool(Batch(maps, masks)))
    joined = concatenate(parts).select(torch.tensor([3, 0, 2, 1]))
    expected = net(batch).logits["fusion"][[3, 0, 2, 1]]
    torch.testing.assert_close(net.classify(joined).logits["fusion"], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_modalities_may_differ_in_channels_at_one_width(kind: str) -> None:
    model = config.Model.model_validate({"kind": kind, "hidden": 16, "width": 12})
    torch.manual_seed(0)
    net = build_net(model, {"OM": 8, "IM": 4, "TEM": 8}, 3)
    batch = make_batch()
    batch.maps["IM"] = batch.maps["IM"][..., :4]
    assert net(batch).logits["fusion"].shape == (4, 3)


def test_differing_channels_without_a_width_are_an_error_that_names_it() -> None:
    model = config.Model.model_validate({"kind": "mdl_iia"})
    with pytest.raises(
        GlomflowError, match=r"width: mdl_iia needs .* have TEM 8, OM 8, IM 4; set the model's"
    ):
        build_net(model, {"OM": 8, "IM": 4, "TEM": 8}, 3)


@pytest.mark.parametrize("kind", ["coattention", "mmformer"])
def test_heads_must_divide_the_channels(kind: str) -> None:
    with pytest.raises(GlomflowError, match=r"cmsa.heads: 3 heads do not divide the model's 16 channels"):
        make_net(kind, cmsa={"heads": 3})


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_loss_never_wait_for_the_device(kind: str) -> None:
    net = make_net(kind).to("meta").train()
    batch = make_batch(lacking={"TEM": [1]})
    on_meta = Batch(
        {name: maps.to("meta") for name, maps in batch.maps.items()},
        {name: mask.to("meta") for name, mask in batch.masks.items()},
    )
    labels = torch.zeros(4, dtype=torch.int64, device="meta")
    net.loss(net(on_meta), labels, criterion(net).to("meta")).backward()


def test_the_vote_is_the_mean_of_the_probabilities_that_are_there() -> None:
    chances = torch.tensor(
        [
            [[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.7, 0.2, 0.1]],
            [[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]],
            [[0.1, 0.5, 0.4], [0.1, 0.5, 0.4], [0.1, 0.5, 0.4]],
        ]
    )
    present = torch.tensor([[True, True, False], [True, False, False], [True, True, False]])
    expected = torch.tensor([[0.3, 0.5, 0.2], [0.4, 0.35, 0.25], [1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(soft_vote(chances.log() + 5.0, present).exp(), expected)


def test_each_branch_of_late_fusion_learns_as_if_alone() -> None:
    net, batch, labels = make_net("late_fusion", dropout=0.0), make_batch(), torch.tensor([0, 1, 2, 0])
    assert isinstance(net, LateFusion)
    outputs = net(batch)
    net.loss(outputs, labels, criterion(net)).backward(retain_graph=True)
    alone = torch.nn.functional.cross_entropy(outputs.logits["OM"], labels)
    expected = torch.autograd.grad(0.3 * alone, list(net.branches["OM"].parameters()))
    for parameter, gradient in zip(net.branches["OM"].parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert not outputs.logits["fusion"].requires_grad


def test_gated_unit_is_the_published_sum() -> None:
    net, batch = make_net("gated_unit", modalities=["OM", "IM"], standardise=False), make_batch()
    om, im = (net.pool(batch).tokens[name].mean(1) for name in ("OM", "IM"))
    both = torch.cat([om, im], 1)
    unit = torch.sigmoid(net.gates["OM"](both)) * torch.tanh(net.features["OM"](om))
    unit = unit + torch.sigmoid(net.gates["IM"](both)) * torch.tanh(net.features["IM"](im))
    torch.testing.assert_close(net(batch).logits["fusion"], net.fusion(unit))


def test_coattention_sees_every_instance_and_says_how_much() -> None:
    net, batch = make_net("coattention"), make_batch(lacking={"OM": [1], "IM": [1]})
    outputs = net(batch)
    assert not net.static_pooling
    for name in ALL:
        mask = batch.masks[name]
        assert torch.equal(outputs.kept[name], mask)
        torch.testing.assert_close(outputs.weights[name].sum(1), mask.any(1).float())
        assert (outputs.weights[name][mask] > 0).all()
    for instance in range(int(batch.masks["TEM"][3].sum())):
        changed = batch.maps["TEM"].clone()
        changed[3, instance] += 1.0
        other = net(Batch({**batch.maps, "TEM": changed}, batch.masks))
        assert not torch.allclose(other.logits["fusion"][3], outputs.logits["fusion"][3])
        torch.testing.assert_close(other.logits["fusion"][:3], outputs.logits["fusion"][:3])


def test_masks_on_literal_numbers() -> None:
    mask = torch.tensor([[True, True, False], [False] * 3])
    tokens = torch.tensor([[[1.0], [3.0], [9.0]], [[1.0], [1.0], [1.0]]])
    assert masked_mean(tokens, mask).tolist() == [[2.0], [0.0]]
    pooling = GatedPooling(1)
    torch.nn.init.zeros_(pooling.score.weight)
    summary, weights = pooling(tokens, mask)
    assert summary.tolist() == [[2.0], [0.0]]
    assert weights.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


def test_positions_are_sinusoids() -> None:
    expected = [[0.0, 1.0, 0.0, 1.0], [0.841471, 0.540302, 0.0099998, 0.99995]]
    torch.testing.assert_close(positions(torch.zeros(1, 2, 4)), torch.tensor(expected))
    assert positions(torch.zeros(1, 2, 5)).shape == (2, 5)
