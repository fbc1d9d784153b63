"""Image encoders as backbones: which map, which part of it, which views."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from glomflow.config import Encoder
from glomflow.config_vlm import VlmBackbone
from glomflow.errors import GlomflowError
from glomflow.models.encoders import build_encoder, preprocess
from glomflow.models.torchvision_compat import import_timm
from glomflow.models.vlm.image_backbone import ImageBackbone, disc_weights, pool_disc
from glomflow.training.vlm_cache import ActivationCache

RANDOM = Encoder(name="resnet10t", weights="random", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def section(**keys: object) -> VlmBackbone:
    return VlmBackbone.model_validate({"library": "timm", **keys})


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def test_a_disc_takes_the_middle_and_leaves_the_corners() -> None:
    weights = disc_weights(14, 0.8)
    assert float(weights.sum()) == pytest.approx(1.0)
    assert float(weights[0, 0]) == float(weights[0, 13]) == 0.0
    assert float(weights[6, 6]) == pytest.approx(1.0 / (np.pi * 5.6**2), rel=0.01)
    assert torch.equal(weights, weights.T)
    assert torch.equal(weights, weights.flip(0))
    assert torch.equal(disc_weights(2, None), torch.full((2, 2), 0.25))


def test_pooling_weighs_cells() -> None:
    maps = torch.zeros(1, 14, 14, 2)
    maps[0, 0, 0, 0], maps[0, 6, 6, 1] = 5.0, 5.0
    found = pool_disc(maps, 0.8)
    assert float(found[0, 0]) == 0.0
    assert float(found[0, 1]) == pytest.approx(5.0 * float(disc_weights(14, 0.8)[6, 6]))
    torch.testing.assert_close(pool_disc(maps, None), torch.full((1, 2), 5.0 / 196))
    with pytest.raises(GlomflowError, match=r"shape \(1, 2, 3, 2\); expected .* square"):
        pool_disc(torch.zeros(1, 2, 3, 2), None)


def test_features_are_the_encoders_maps_within_the_disc(crops) -> None:
    backbone = ImageBackbone("small", section(disc=None), RANDOM)
    found = ActivationCache(None, batch_size=2).features(backbone, crops)
    encoder = build_encoder(RANDOM)
    with torch.no_grad():
        maps = encoder(preprocess(crops, RANDOM.mean, RANDOM.std))
    torch.testing.assert_close(found, functional.normalize(maps.mean(dim=(1, 2)), dim=1))
    middle = ActivationCache(None).features(ImageBackbone("small", section(), RANDOM), crops)
    torch.testing.assert_close(middle, functional.normalize(pool_disc(maps, 0.8), dim=1))
    assert found.shape == (3, backbone.dim)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "stride", "place"),
    [("resnet10t", 16, 3), ("convnext_atto", 8, 1), ("swin_tiny_patch4_window7_224", 16, 2)],
)
def test_a_stride_names_a_map(name: str, stride: int, place: int) -> None:
    encoder = build_encoder(Encoder(name=name, weights="random"), stride=stride)
    whole = import_timm().create_model(name, features_only=True)
    assert encoder.channels == whole.feature_info.channels()[place]
    assert encoder.grid(224) == (224 // stride, 224 // stride)


def test_the_last_stride_is_the_map_without_one() -> None:
    settings = Encoder(name="vit_tiny_patch16_224", weights="random")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last, named = build_encoder(settings)(images), build_encoder(settings, stride=16)(images)
    assert torch.equal(last, named)


def test_a_stride_that_there_is_not_is_named() -> None:
    message = (
        r"vlm\.backbones\.small: stride: resnet10t has feature maps of stride 2, 4, 8, 16, 32, none of 5"
    )
    with pytest.raises(GlomflowError, match=message):
        ImageBackbone("small", section(stride=5), RANDOM)


def test_symmetries_make_features_of_turned_and_mirrored_crops_alike(crops) -> None:
    cache = ActivationCache(None)
    turned = np.ascontiguousarray(np.rot90(crops, axes=(1, 2)))
    mirrored = np.ascontiguousarray(crops[:, :, ::-1])
    plain, eight = (ImageBackbone("small", section(symmetries=on), RANDOM) for on in (False, True))
    expected = cache.features(eight, crops)
    torch.testing.assert_close(cache.features(eight, turned), expected)
    torch.testing.assert_close(cache.features(eight, mirrored), expected)
    assert not torch.allclose(cache.features(plain, turned), cache.features(plain, crops), atol=1e-4)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"weights": "file:w.bin"},
            "weights: with library timm the model is a section of encoders; take wei",
        ),
        ({"architecture": "resnet50"}, "take architecture out and set encoder to the section's name"),
        ({"disc": 0.0}, "greater than 0"),
    ],
)
def test_keys_of_other_libraries_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        section(**keys)


def test_only_the_last_map_of_one_view_is_there_already() -> None:
    assert section().pools_maps
    assert not section(stride=32).pools_maps
    assert not section(symmetries=True).pools_maps
    assert not VlmBackbone().pools_maps
