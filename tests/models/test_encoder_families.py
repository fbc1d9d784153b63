"""Families of encoders: shapes, weights of whole models, what is trained, and checkpointing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.encoders import Encoder, EncoderBank, build_encoder
from glomflow.models.torchvision_compat import import_timm

NAMED = [
    ("tf_efficientnet_lite0", 224, (7, 7, 320)),
    ("swin_base_patch4_window7_224", 224, (7, 7, 1024)),
    ("resnet50", 224, (7, 7, 2048)),
    ("densenet121", 224, (7, 7, 1024)),
    ("inception_v3", 299, (8, 8, 2048)),
    ("inception_v3", 224, (5, 5, 2048)),
    ("res2net50_26w_4s", 224, (7, 7, 2048)),
    ("vgg16", 224, (7, 7, 512)),
    ("vgg16_bn", 224, (7, 7, 512)),
    ("convnext_tiny", 224, (7, 7, 768)),
    ("convnext_base", 224, (7, 7, 1024)),
    ("vit_base_patch16_224", 224, (14, 14, 768)),
    ("beit_base_patch16_224", 224, (14, 14, 768)),
]

SMALL: list[tuple[str, dict[str, Any], int]] = [
    ("tf_efficientnet_lite0", {}, 64),
    ("swin_tiny_patch4_window7_224", {"img_size": 56}, 56),
    ("resnet10t", {}, 64),
    ("densenet121", {}, 64),
    ("inception_v3", {}, 96),
    ("res2net50_26w_4s", {}, 64),
    ("vgg11_bn", {}, 64),
    ("convnext_atto", {}, 64),
    ("vit_tiny_patch16_224", {"img_size": 32}, 32),
    ("vit_tiny_patch16_224", {"dynamic_img_size": True, "init_values": 0.1, "reg_tokens": 4}, 48),
]
"""A small member of each family, options, and an image edge that it is quick at."""


def settings_of(name: str, options: dict[str, Any], **more: Any) -> config.Encoder:
    return config.Encoder.model_validate({"name": name, "weights": "random", "options": options, **more})


def whole_map(model: Any, name: str, images: Tensor) -> Tensor:
    """The last feature map of a whole timm model, channels last."""
    if name.startswith("tf_efficientnet"):  # behind the last stage, before the classifier's convolution
        return model.blocks(model.bn1(model.conv_stem(images))).permute(0, 2, 3, 1)
    maps: Tensor = model.forward_features(images)
    if name.startswith("vit"):
        tokens = maps[:, model.num_prefix_tokens :]
        edge = round(tokens.shape[1] ** 0.5)
        return tokens.reshape(len(tokens), edge, edge, -1)
    return maps if name.startswith("swin") else maps.permute(0, 2, 3, 1)


@pytest.mark.parametrize(("name", "size", "shape"), NAMED)
def test_shapes_of_the_named_encoders(name: str, size: int, shape: tuple[int, int, int]) -> None:
    with torch.device("meta"):  # a forward pass of shapes alone
        encoder = build_encoder(settings_of(name, {}))
        assert encoder(torch.zeros(2, 3, size, size)).shape == (2, *shape)
    assert encoder.channels == shape[2]


@pytest.mark.parametrize(("name", "options", "size"), SMALL)
def test_a_whole_models_weights_give_its_own_map(
    tmp_path: Path, name: str, options: dict[str, Any], size: int
) -> None:
    torch.manual_seed(4)
    full = import_timm().create_model(name, **options).eval()
    for key, value in full.named_buffers():
        if key.endswith("running_mean"):
            value.uniform_(-0.1, 0.1)
    state = {key: value.contiguous() for key, value in full.state_dict().items()}
    state = {key: value for key, value in state.items() if not key.startswith("pre_logits")}  # 400 MB of VGG
    save_file(state, tmp_path / "w.safetensors")
    encoder = build_encoder(
        settings_of(name, options, weights=f"file:{tmp_path / 'w.safetensors'}", trainable="last")
    )
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = whole_map(full, name, images)
    maps = encoder(images)
    scale = expected.std()
    torch.testing.assert_close(maps.detach() / scale, expected / scale, rtol=1e-3, atol=1e-3)
    maps.square().mean().backward()
    trained = {key for key, value in encoder.named_parameters() if value.requires_grad}
    assert trained == {key for key, value in encoder.named_parameters() if value.grad is not None}
    assert 0 < len(trained) < len(list(encoder.parameters()))


def gradients(encoder: Encoder, images: Tensor) -> dict[str, Tensor]:
    encoder.zero_grad()
    encoder(images).square().mean().backward()
    return {key: value.grad.clone() for key, value in encoder.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(
    ("name", "options", "size"), [one for one in SMALL if one[0] not in ("vgg11_bn", "densenet121")]
)
def test_all_parameters_learn_with_and_without_checkpointing(
    name: str, options: dict[str, Any], size: int
) -> None:
    encoder = build_encoder(settings_of(name, options, trainable="all")).eval()
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    plain = gradients(encoder, images)
    assert set(plain) == {key for key, _ in encoder.named_parameters()}
    encoder.set_gradient_checkpointing(True)
    again = gradients(encoder, images)
    assert set(again) == set(plain)
    for key, value in plain.items():
        torch.testing.assert_close(again[key], value, rtol=1e-4, atol=1e-6)


def kept(encoder: Encoder, images: Tensor) -> int:
    """Elements that a forward pass keeps for the backward pass."""
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encoder(images)
    return sum(sizes)


@pytest.mark.parametrize(("name", "options"), [("resnet10t", {}), ("vit_tiny_patch16_224", {"img_size": 64})])
def test_checkpointing_keeps_less(name: str, options: dict[str, Any]) -> None:
    encoder = build_encoder(settings_of(name, options, trainable="all")).train()
    images = torch.randn(2, 3, 64, 64)
    plain = kept(encoder, images)
    encoder.set_gradient_checkpointing(True)
    assert kept(encoder, images) < 0.8 * plain
    encoder.set_gradient_checkpointing(False)
    assert kept(encoder, images) == plain


def test_checkpointing_counts_a_batch_once() -> None:
    images = torch.randn(4, 3, 64, 64)
    states = []
    for on in (False, True):
        bank = EncoderBank({"OM": settings_of("resnet10t", {}, trainable="all")})
        bank.set_gradient_checkpointing(on)
        encoder = bank.encoders["OM"].train()
        gradients(encoder, images)
        gradients(encoder, images)
        states.append({key: value.clone() for key, value in encoder.named_buffers()})
    assert int(states[0]["network.layer2.0.bn1.num_batches_tracked"]) == 2
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-6, atol=1e-7)


def test_a_model_without_checkpointing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build_encoder(settings_of("vit_tiny_patch16_224", {"img_size": 32}))
    monkeypatch.delattr(type(encoder.network.model), "set_grad_checkpointing")
    with pytest.raises(
        GlomflowError,
        match=r"diagnosis.training.gradient_checkpointing: timm has none for vit_tiny_patch16_224 .*; set it",
    ):
        encoder.set_gradient_checkpointing(True)
