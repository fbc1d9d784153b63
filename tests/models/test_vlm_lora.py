"""Low-rank updates of attention projections, in the layouts of open_clip, timm and transformers."""

import copy

import pytest
import torch
from torch import nn

from glomflow.errors import GlomflowError
from glomflow.models.torchvision_compat import import_torchvision
from glomflow.models.vlm.lora import TARGETS, LoraLinear, LowRank, add_lora

import_torchvision()

WIDTH, HEADS, LENGTH = 16, 2, 7
LAYOUTS = ("open_clip", "timm", "transformers")


def make_block(layout: str) -> nn.Module:
    torch.manual_seed(0)
    if layout == "open_clip":
        from open_clip.transformer import ResidualAttentionBlock

        block: nn.Module = ResidualAttentionBlock(WIDTH, HEADS)
        nn.init.normal_(block.attn.in_proj_bias)
        nn.init.normal_(block.attn.out_proj.bias)
        return block.eval()
    if layout == "timm":
        from timm.models.vision_transformer import Block

        return Block(WIDTH, HEADS, qkv_bias=True).eval()
    from transformers import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer

    config = CLIPTextConfig(hidden_size=WIDTH, intermediate_size=32, num_attention_heads=HEADS)
    config._attn_implementation = "sdpa"
    return CLIPEncoderLayer(config).eval()


def run(block: nn.Module, layout: str, x: torch.Tensor) -> torch.Tensor:
    if layout == "timm":
        return block(x)
    mask = torch.full((LENGTH, LENGTH), float("-inf"), dtype=x.dtype).triu(1)
    if layout == "open_clip":
        return block(x, attn_mask=mask)
    return block(x, attention_mask=mask[None, None])


def learnt(lora) -> None:
    generator = torch.Generator().manual_seed(3)
    for part in lora.modules:
        part.b.data = torch.randn(part.b.shape, generator=generator).to(part.b.dtype)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_at_the_start_nothing_changes(layout: str, x: torch.Tensor) -> None:
    block = make_block(layout).double()
    before = run(block, layout, x)
    lora = add_lora([block], rank=2, alpha=4.0, dropout=0.5, targets=TARGETS)
    torch.testing.assert_close(run(block, layout, x), before, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(run(block.train(), layout, x), before, rtol=1e-10, atol=1e-10)
    assert len(lora.parameters()) == 8
    assert all(part.a.dtype == torch.float64 for part in lora.modules)


@pytest.mark.parametrize("targets", [("q", "v"), ("k",), ("out",), TARGETS])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_merged_equals_unmerged_and_can_be_undone(layout: str, targets: tuple, x: torch.Tensor) -> None:
    block = make_block(layout).double()
    original, before = copy.deepcopy(block.state_dict()), run(block, layout, x)
    lora = add_lora([block], rank=3, alpha=6.0, targets=targets)
    learnt(lora)
    updated = run(block, layout, x)
    assert float((updated - before).detach().abs().max()) > 0.01
    lora.merge()
    lora.merge()
    assert lora.merged
    torch.testing.assert_close(run(block, layout, x), updated, rtol=1e-10, atol=1e-10)
    lora.unmerge()
    torch.testing.assert_close(run(block, layout, x), updated, rtol=1e-10, atol=1e-10)
    lora.merge()
    lora.remove()
    torch.testing.assert_close(run(block, layout, x), updated, rtol=1e-10, atol=1e-10)
    assert block.state_dict().keys() == original.keys()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_update_is_that_of_the_weight(layout: str, x: torch.Tensor) -> None:
    block = make_block(layout).double()
    other = copy.deepcopy(block)
    lora = add_lora([block], rank=2, alpha=5.0, targets=("v",))
    learnt(lora)
    (part,) = lora.modules
    delta = 2.5 * part.b @ part.a
    with torch.no_grad():
        if layout == "open_clip":
            other.attn.in_proj_weight[2 * WIDTH :] += delta
        elif layout == "timm":
            other.attn.qkv.weight[2 * WIDTH :] += delta
        else:
            other.self_attn.v_proj.weight += delta
    torch.testing.assert_close(run(block, layout, x), run(other, layout, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_updates_get_gradients_and_removal_restores(layout: str, x: torch.Tensor) -> None:
    block = make_block(layout).double().requires_grad_(False)
    before = run(block, layout, x)
    lora = add_lora([block], rank=2, alpha=2.0, targets=("q", "k", "v"))
    learnt(lora)
    run(block.train(), layout, x).square().sum().backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in lora.parameters())
    trained = [name for name, parameter in block.named_parameters() if parameter.grad is not None]
    assert len(trained) == 6
    lora.remove()
    torch.testing.assert_close(run(block.eval(), layout, x), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("targets", [("q",), ("k", "out"), ("q", "v"), TARGETS])
@pytest.mark.parametrize("layout", ["open_clip", "transformers"])
def test_a_token_alone_is_updated_as_among_all(
    layout: str, targets: tuple, merged: bool, x: torch.Tensor
) -> None:
    from glomflow.models.vlm import open_clip_text, transformers_backbone

    block = make_block(layout).double()
    lora = add_lora([block], rank=2, alpha=4, targets=targets, generator=torch.Generator().manual_seed(2))
    learnt(lora)
    if merged:
        lora.merge()
    place = torch.tensor([LENGTH - 1, 0, 3])
    mask = torch.full((LENGTH, LENGTH), float("-inf"), dtype=x.dtype).triu(1)
    one = open_clip_text.block_at if layout == "open_clip" else transformers_backbone.block_at
    found = one(block, x, place, mask if layout == "open_clip" else mask[None, None])
    whole = run(block, layout, x)[torch.arange(3), place][:, None]
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10)
    if layout == "open_clip":
        tall = mask.expand(3 * HEADS, -1, -1)
        torch.testing.assert_close(one(block, x, place, tall), whole, rtol=1e-10, atol=1e-10)


def test_dropout_acts_on_the_input_while_training() -> None:
    part = LowRank(4, 2, rank=4, alpha=4.0, dropout=0.5)
    part.a.data, part.b.data = torch.eye(4), torch.ones(2, 4)
    x = torch.ones(4000, 4)
    torch.manual_seed(0)
    seen = part.train()(x).detach()[:, 0]
    assert set(seen.unique().tolist()) == {0.0, 2.0, 4.0, 6.0, 8.0}
    assert float(seen.mean()) == pytest.approx(4.0, abs=0.1)
    torch.testing.assert_close(part.eval()(x), torch.full((4000, 2), 4.0))


def test_it_is_what_peft_computes() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4))
    ours = LoraLinear(copy.deepcopy(model[0]), {"q": LowRank(6, 4, rank=2, alpha=7.0)}, {"q": slice(0, 4)})
    settings = peft.LoraConfig(r=2, lora_alpha=7, target_modules=["0"], lora_dropout=0.0)
    theirs = peft.get_peft_model(model, settings).eval()
    layer = theirs.base_model.model[0]
    part = ours.parts["q"]
    assert layer.lora_A["default"].weight.shape == part.a.shape
    nn.init.normal_(layer.lora_B["default"].weight)
    part.a.data, part.b.data = layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
    x = torch.randn(5, 6)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_draws_come_from_the_generator() -> None:
    def drawn(seed: int) -> torch.Tensor:
        block = make_block("open_clip")
        generator = torch.Generator().manual_seed(seed)
        return add_lora([block], rank=2, alpha=2.0, generator=generator).modules[1].a

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert float(drawn(1).detach().abs().max()) <= WIDTH**-0.5


def test_what_cannot_be_updated_is_refused() -> None:
    with pytest.raises(GlomflowError, match="targets mlp; choose among q, k, v, out"):
        add_lora([make_block("open_clip")], rank=2, alpha=2.0, targets=["mlp"])
    block = make_block("open_clip")
    add_lora([block], rank=2, alpha=2.0)
    with pytest.raises(GlomflowError, match="LoraAttention"):
        add_lora([block], rank=2, alpha=2.0)
