"""CMUS-Net: attention, missing modalities, masks, losses, and no waiting for the device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.batch import Batch, Instances, concatenate, gather_bags, mean_over_instances
from glomflow.models.cmus_net import CmusNet
from glomflow.models.losses import Criterion
from glomflow.models.outputs import Outputs, modality_names
from glomflow.models.patient_model import PatientModel

CHANNELS = 8
ALL = ("OM", "IM", "TEM")


def make_batch(patients: int = 4, *, lacking: dict[str, list[int]] | None = None, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    maps, masks = {}, {}
    for name in ALL:
        longest = 5 if name == "TEM" else 1
        count = torch.tensor([2 + place % 4 if name == "TEM" else 1 for place in range(patients)])
        count[(lacking or {}).get(name, [])] = 0
        masks[name] = torch.arange(longest) < count[:, None]
        values = torch.randn(patients, longest, 3, 3, CHANNELS, generator=generator)
        maps[name] = values * masks[name][:, :, None, None, None]
    return Batch(maps, masks)


def make_net(**options: object) -> CmusNet:
    torch.manual_seed(0)
    channels = dict.fromkeys(ALL, CHANNELS)
    return CmusNet(config.Model.model_validate({"hidden": 16, **options}), channels, 3).eval()


def loss_of(net: CmusNet, outputs: Outputs, labels: Tensor, **options: object) -> Tensor:
    criterion = Criterion(config.Loss.model_validate(options), net.heads, summed=net.parity)
    return net.loss(outputs, labels, criterion)


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(GlomflowError, match=r"cmsa.heads: 3 heads do not divide the model's 8 channels; use"):
        make_net(cmsa={"heads": 3})


@pytest.mark.parametrize(
    "options",
    [{}, {"smil": {"variant": "sum"}}, {"modalities": ["TEM"]}, {"modalities": ["OM", "IM"]}],
    ids=["distance", "sum", "tem", "om+im"],
)
def test_padding_order_and_company_change_nothing(options: dict[str, object]) -> None:
    net, batch = make_net(**options), make_batch()
    expected = net.predict(batch)
    torch.testing.assert_close(expected.sum(1), torch.ones(4, dtype=torch.float64))
    assert expected.dtype == torch.float64
    for place in range(4):
        maps, masks = {}, {}
        for name in ALL:
            order = torch.argsort(~batch.masks[name][place], stable=True).flip(0)
            garbage = torch.full((1, 2, 3, 3, CHANNELS), 9.0)
            maps[name] = torch.cat([batch.maps[name][place : place + 1, order], garbage], 1)
            masks[name] = torch.cat([batch.masks[name][place, order], torch.zeros(2, dtype=torch.bool)])[None]
        torch.testing.assert_close(net.predict(Batch(maps, masks))[0], expected[place], rtol=1e-4, atol=1e-6)


def test_missing_modality_enters_the_fusion_as_zeros() -> None:
    net = make_net(standardise=False)
    seen: list[Tensor] = []
    net.fusion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = make_batch(lacking={"OM": [1], "TEM": [2], "IM": [3]})
    outputs = net(batch)
    tem, om, im = seen[0].chunk(3, dim=1)
    assert not om[1].any()
    assert not tem[2].any()
    assert not im[3].any()
    torch.testing.assert_close(om[2], batch.maps["OM"][2, 0].mean((0, 1)))
    assert not torch.allclose(om[0], batch.maps["OM"][0, 0].mean((0, 1)))
    assert outputs.present["OM"].tolist() == [True, False, True, True]
    assert outputs.present["fusion"].all()


def test_branch_losses_count_present_patients_only() -> None:
    net = make_net()
    outputs = net(make_batch(lacking={"OM": [1, 3], "TEM": [2]}))
    labels = torch.tensor([0, 1, 2, 0])
    logits = outputs.logits
    expected = (
        functional.cross_entropy(logits["fusion"], labels)
        + 0.3 * functional.cross_entropy(logits["OM"][[0, 2]], labels[[0, 2]])
        + 0.5 * functional.cross_entropy(logits["IM"], labels)
        + 0.2 * functional.cross_entropy(logits["TEM"][[0, 1, 3]], labels[[0, 1, 3]])
    )
    torch.testing.assert_close(loss_of(net, outputs, labels, fusion=1.0, OM=0.3, IM=0.5, TEM=0.2), expected)
    per_head = Criterion(config.Loss(), net.heads).per_patient(outputs, labels)
    assert per_head[net.heads.index("OM"), [1, 3]].tolist() == [0.0, 0.0]


def test_patient_without_any_modality_is_predicted_from_the_biases() -> None:
    net = make_net()
    outputs = net(make_batch(lacking={"OM": [0], "IM": [0], "TEM": [0]}))
    assert outputs.present["fusion"].tolist() == [False, True, True, True]
    expected = net.fusion(torch.zeros(1, 3 * CHANNELS))[0]
    torch.testing.assert_close(outputs.logits["fusion"][0], expected)


def test_heads_follow_the_selected_modalities() -> None:
    outputs = make_net(modalities=["OM", "IM"])(make_batch())
    assert set(outputs.logits) == {"OM", "IM", "fusion"}
    assert set(outputs.weights) == {"OM", "IM"}
    assert not list(make_net(modalities=["OM", "IM"]).cmsa.parameters())
    assert make_net(modalities=["IM", "TEM"]).heads == ("TEM", "IM", "fusion")
    assert make_net(modalities=["TEM"]).fusion[0].in_features == CHANNELS


def test_standardisation_scales_channels_and_parity_sets_it_aside() -> None:
    net, batch = make_net(modalities=["OM"]), make_batch()
    mean, deviation = torch.arange(CHANNELS).float(), torch.full((CHANNELS,), 2.0)
    deviation[0] = 0.0
    net.set_standardisation({"OM": (mean, deviation)})
    tokens = net.pool(batch).tokens["OM"]
    raw = batch.maps["OM"][:, 0].flatten(1, 2)
    torch.testing.assert_close(tokens[..., 1:], (raw - mean)[..., 1:] / 2.0)
    torch.testing.assert_close(tokens[..., 0], raw[..., 0])
    assert not make_net(parity=True).standardise


@pytest.mark.parametrize("variant", ["distance", "sum"])
@pytest.mark.parametrize("parity", [False, True])
def test_forward_and_loss_never_wait_for_the_device(variant: str, parity: bool) -> None:
    """On torch's meta device there are no values: whatever asks for one fails."""
    net = make_net(smil={"variant": variant}, parity=parity).to("meta").train()
    batch = make_batch(lacking={"TEM": [1]})
    on_meta = Batch(
        {name: maps.to("meta") for name, maps in batch.maps.items()},
        {name: mask.to("meta") for name, mask in batch.masks.items()},
    )
    outputs = net(on_meta)
    loss = loss_of(net, outputs, torch.zeros(4, dtype=torch.int64, device="meta"))
    loss.backward()
    assert outputs.logits["fusion"].shape == (4, 3)
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(loss > 0)


def test_learned_map_stands_in_for_what_is_missing() -> None:
    net = make_net(absent="learned", standardise=False, cmsa={"variant": "none"})
    seen: list[Tensor] = []
    net.fusion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    outputs = net(make_batch(lacking={"OM": [1], "TEM": [1, 2]}))
    tem, om, _ = seen[0].chunk(3, dim=1)
    torch.testing.assert_close(om[1], net.stand_ins["OM"].detach())
    torch.testing.assert_close(tem[2], net.stand_ins["TEM"].detach())
    assert outputs.present["OM"].tolist() == [True, False, True, True]


def test_learned_map_asks_where_tem_is_missing() -> None:
    net, batch = make_net(absent="learned"), make_batch(lacking={"TEM": [2]})
    before = net(batch).logits["OM"]
    with torch.no_grad():
        net.stand_ins["TEM"].add_(1.0)
    changed = (net(batch).logits["OM"] != before).any(1)
    assert changed.tolist() == [False, False, True, False]


def test_encoders_of_different_width_are_projected() -> None:
    channels = {"OM": 4, "IM": 8, "TEM": 6}
    net = CmusNet(config.Model(width=12), channels, 3)
    assert {name: layer.in_features for name, layer in net.projections.items()} == channels
    assert net.fusion[0].in_features == 36
    with pytest.raises(GlomflowError, match=r"width: .* \(TEM 6, OM 4, IM 8\); set the model's width"):
        CmusNet(config.Model(), channels, 3)


def test_ordinal_heads_give_probabilities() -> None:
    outputs = make_net(ordinal=True)(make_batch())
    for values in outputs.logits.values():
        torch.testing.assert_close(values.exp().sum(1), torch.ones(4))


def test_hidden_modalities_leave_one_each_and_score_no_branch() -> None:
    net, batch = make_net(modality_dropout=0.9).train(), make_batch(lacking={"OM": [1], "IM": [1, 2]})
    torch.manual_seed(3)
    presents = [net(batch).present for _ in range(200)]
    counts = torch.stack([torch.stack([p[name] for name in ALL]).sum(0) for p in presents])
    assert counts.min() == 1
    assert counts[:, 1].max() == 1
    assert not any(p["OM"][1] for p in presents)
    assert torch.stack([p["fusion"] for p in presents]).all()
    left = torch.stack([torch.stack([p[name] for name in ALL]) for p in presents]).float().mean(0)
    # Of three, one stays with 0.1 or as the last: 0.1 + 0.9^3 / 3.
    torch.testing.assert_close(left[:, 0], torch.full((3,), 0.343), rtol=0.0, atol=0.12)
    assert net.eval()(batch).present["OM"].tolist() == [True, False, True, True]


def test_hidden_modalities_do_not_enter() -> None:
    net, batch = make_net(modality_dropout=0.9).train(), make_batch()
    net.fusion[1].eval()
    torch.manual_seed(4)
    hidden = net(batch)
    lacking = {name: (~hidden.present[name]).nonzero()[:, 0].tolist() for name in ALL}
    expected = net.eval()(make_batch(lacking=lacking))
    torch.testing.assert_close(hidden.logits["fusion"], expected.logits["fusion"])


def test_attention_maps_of_the_variants_that_have_some() -> None:
    batch = make_batch(lacking={"TEM": [1]})
    for variant, names in {"cmsa": {"OM", "IM"}, "self": set(ALL), "cross": set(ALL), "none": set()}.items():
        net = make_net(cmsa={"variant": variant})
        maps = net.attention_maps(net.pool(batch))
        assert set(maps) == names
        assert all(values.shape == (4, 4, 9, 9) and not values.requires_grad for values in maps.values())
    net = make_net()
    maps = net.attention_maps(net.pool(batch))
    torch.testing.assert_close(maps["OM"].sum(-1)[[0, 2, 3]], torch.ones(3, 4, 9))
    assert not maps["OM"][1].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_stays_close(dtype: torch.dtype) -> None:
    net, batch = make_net(standardise=False), make_batch(lacking={"TEM": [1]})
    labels = torch.tensor([0, 1, 2, 0])
    expected = loss_of(net, net(batch), labels)
    half = Batch({name: maps.to(dtype) for name, maps in batch.maps.items()}, batch.masks)
    with torch.autocast("cpu", dtype=dtype):
        outputs = net(half)
    loss = loss_of(net, outputs, labels)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.02)


def test_gather_bags_pads_with_zeros() -> None:
    rows = torch.arange(1.0, 4.0)[:, None]
    bags, mask = gather_bags(rows, torch.tensor([[0, 2], [1, -1]]))
    assert bags[:, :, 0].tolist() == [[1.0, 3.0], [2.0, 0.0]]
    assert mask.tolist() == [[True, True], [True, False]]
    none, empty = gather_bags(rows[:0], torch.tensor([[-1], [-1]]))
    assert none.tolist() == [[[0.0]], [[0.0]]]
    assert not empty.any()


def test_mean_over_instances_ignores_padding() -> None:
    bags = torch.tensor([[[2.0], [4.0], [9.0]], [[1.0], [1.0], [1.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert mean_over_instances(bags, mask).tolist() == [[3.0], [0.0]]


def test_several_om_instances_are_averaged() -> None:
    net = make_net(modalities=["OM"], standardise=False)
    rows = torch.randn(3, 3, 3, CHANNELS)
    pooled = net.pool(PatientModel(net).batch(Instances({"OM": rows}, {"OM": torch.tensor([[0, 1, 2]])})))
    torch.testing.assert_close(pooled.tokens["OM"][0], rows.mean(0).flatten(0, 1))


def test_pooled_parts_join_to_the_whole() -> None:
    net, batch = make_net(), make_batch()
    whole = net.pool(batch)
    parts = [
        net.pool(
            Batch(
                {name: maps[rows, :longest] for name, maps in batch.maps.items()},
                {name: mask[rows, :longest] for name, mask in batch.masks.items()},
            )
        )
        for rows, longest in ((slice(0, 2), 3), (slice(2, 4), 5))
    ]
    joined = concatenate(parts)
    torch.testing.assert_close(joined.tokens, whole.tokens)
    torch.testing.assert_close(joined.weights, whole.weights)
    assert all(torch.equal(joined.kept[name], whole.kept[name]) for name in ALL)
    again = joined.select(torch.tensor([3, 0]))
    torch.testing.assert_close(again.tokens["TEM"], whole.tokens["TEM"][[3, 0]])


def test_modality_names_are_in_order() -> None:
    assert modality_names({"TEM": True, "OM": True, "IM": False}) == "OM+TEM"
    assert modality_names({"TEM": False}) == ""
