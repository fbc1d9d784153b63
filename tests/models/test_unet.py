"""The finder's network: maps of any encoder, frozen stages, errors."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn import functional

from glomflow import config
from glomflow.config_finder import FinderEncoder
from glomflow.errors import GlomflowError
from glomflow.models.encoders import build_encoder
from glomflow.models.unet import FinderNet, _enlarged, build_finder_net


def random_net(name: str = "tf_efficientnet_lite0") -> FinderNet:
    return build_finder_net(FinderEncoder(name=name, weights="random"), pretrained=True)


@pytest.mark.parametrize(
    ("name", "edge", "stride"),
    [
        ("tf_efficientnet_lite0", 64, 2),
        ("resnet18", 64, 2),
        ("convnext_atto", 64, 4),
        ("swin_tiny_patch4_window7_224", 224, 4),
    ],
)
def test_maps_have_the_stride_of_the_finest_features(name: str, edge: int, stride: int) -> None:
    net = random_net(name)
    with torch.no_grad():
        logits = net(torch.zeros(1, 3, edge, edge))
    assert net.stride == stride
    assert logits.shape == (1, 2, edge // stride, edge // stride)


def test_a_transformer_of_one_resolution_gives_its_deepest_map() -> None:
    net = random_net("vit_tiny_patch16_224")
    with torch.no_grad():
        logits = net(torch.zeros(1, 3, 224, 224))
    assert (net.stride, len(net.decoder), logits.shape) == (16, 0, (1, 2, 14, 14))


def test_sides_need_not_be_equal() -> None:
    with torch.no_grad():
        assert random_net()(torch.zeros(2, 3, 64, 96)).shape == (2, 2, 32, 48)


def test_the_pyramid_holds_the_weights_of_the_package() -> None:
    net = build_finder_net(FinderEncoder(), pretrained=True)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        deepest = net.encoder(images)[-1].permute(0, 2, 3, 1)
        expected = build_encoder(config.Encoder())(images)
    torch.testing.assert_close(deepest, expected)


def test_a_frozen_encoder_gets_no_gradient() -> None:
    net = random_net().train()
    net.freeze_encoder(True)
    net(torch.rand(2, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is None for parameter in net.encoder.parameters())
    assert all(parameter.grad is not None for parameter in net.decoder.parameters())
    net.freeze_encoder(False)
    net(torch.rand(2, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.encoder.parameters())


def test_training_leaves_the_statistics_of_the_encoder_and_moves_those_of_the_decoder() -> None:
    net = random_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net(torch.rand(2, 3, 64, 64))
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("decoder.") for name in moved)


@pytest.mark.parametrize("size", [(6, 10), (7, 9)])
def test_enlarging_repeats_the_nearest_pixel(size: tuple[int, int]) -> None:
    below = torch.rand(2, 4, 3, 5, generator=torch.Generator().manual_seed(2))
    expected = functional.interpolate(below, size=size, mode="nearest")
    assert torch.equal(_enlarged(below, torch.zeros(2, 1, *size)), expected)


def test_an_unknown_encoder_is_named_with_its_key() -> None:
    message = "imaging.finder.encoder.name: timm has no model 'resnet81'"
    with pytest.raises(GlomflowError, match=re.escape(message)):
        build_finder_net(FinderEncoder(name="resnet81", weights="random"), pretrained=True)


def test_a_size_that_the_encoder_cannot_take_is_refused() -> None:
    net = random_net("swin_tiny_patch4_window7_224")
    net.check_size("tile", 224)
    message = "imaging.finder.tile: 512, but swin_tiny_patch4_window7_224 takes images of 224 px only"
    with pytest.raises(GlomflowError, match=re.escape(message)):
        net.check_size("tile", 512)
