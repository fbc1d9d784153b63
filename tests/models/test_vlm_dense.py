"""Patches in the shared space: what each kind of pooling makes of a patch alone."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from glomflow.config_vlm import VlmBackbone
from glomflow.errors import GlomflowError
from glomflow.models.torchvision_compat import import_torchvision
from glomflow.models.vlm.backbone import Backbone, Tower, load_backbone
from glomflow.models.vlm.conch_backbone import SETTINGS, ConchParts, ConchTower
from glomflow.models.vlm.dense import patch_features, text_maps
from glomflow.models.vlm.preprocessing import Preprocessing

import_torchvision()
pytest.importorskip("open_clip")

VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
CLIP = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg", "timm_proj": "linear"}
COCA = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}


def vision(**changes: object) -> dict:
    return {**CLIP, "vision_cfg": {**VISION, **changes}}


def load(folder: Path, description: dict) -> Backbone:
    path = folder / "architecture.json"
    path.write_text(json.dumps(description))
    settings = VlmBackbone(architecture=str(path), weights="random")
    backbone = load_backbone("small", settings, offline=True)
    for parameter in backbone.parameters():  # so that no bias is zero
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return backbone


def last_state(tower: Tower, size: int, images: int = 2) -> torch.Tensor:
    pixels = torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return tower.run(tower.stem(pixels), 0)


@torch.no_grad()
def test_a_patch_takes_the_place_of_the_class_token(tmp_path: Path) -> None:
    tower = load(tmp_path, CLIP).vision
    hidden = last_state(tower, 32)
    found = patch_features(tower, hidden)
    expected = tower.visual.ln_post(hidden[:, 1:]) @ tower.visual.proj
    assert found.shape == (2, 4, 4, 16)
    torch.testing.assert_close(found.reshape(2, 16, 16), expected)


@torch.no_grad()
@pytest.mark.parametrize(
    ("description", "size"),
    [
        (vision(pool_type="avg"), 32),
        ({"embed_dim": 24, "vision_cfg": {**TIMM, "image_size": 224}, "text_cfg": TEXT}, 224),
    ],
)
def test_patches_of_an_average_average_to_the_image(description: dict, size: int, tmp_path: Path) -> None:
    tower = load(tmp_path, description).vision
    hidden = last_state(tower, size, images=1)
    found = patch_features(tower, hidden)
    torch.testing.assert_close(found.mean(dim=(1, 2)), tower.head(hidden, None), atol=1e-5, rtol=1e-4)
    assert found.std(dim=(1, 2)).min() > 1e-3


@torch.no_grad()
def test_attention_pooling_leaves_its_value_path(tmp_path: Path) -> None:
    description = {
        **vision(**COCA),
        "multimodal_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "custom_text": True,
    }
    tower = load(tmp_path, description).vision
    hidden = last_state(tower, 32)
    visual, pool = tower.visual, tower.visual.attn_pool.attn
    bias = pool.in_proj_bias.chunk(3)[2]
    values = functional.linear(visual.attn_pool.ln_k(hidden[:, 1:]), pool.v_proj_weight, bias)
    expected = visual.ln_post(pool.out_proj(values)) @ visual.proj
    torch.testing.assert_close(patch_features(tower, hidden).reshape(2, 16, 16), expected)


@torch.no_grad()
def test_conch_pools_by_attention_too() -> None:
    sizes = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 1, "num_heads": 4}
    settings = {
        **SETTINGS,
        "embed_dim": 16,
        "vision_cfg": {**SETTINGS["vision_cfg"], **sizes, "attn_pooler_heads": 2},
        "text_cfg": {**SETTINGS["text_cfg"], "context_length": 8, "vocab_size": 9, "width": 32, "heads": 2},
    }
    tower = ConchTower(ConchParts(settings).eval().visual)
    hidden = last_state(tower, 32)
    visual, pool = tower.visual, tower.visual.attn_pool_contrast
    seen = pool.ln_k(visual.trunk.norm(hidden[:, 1:]))
    values = functional.linear(seen, pool.attn.v_proj_weight, pool.attn.in_proj_bias.chunk(3)[2])
    expected = visual.ln_contrast(pool.attn.out_proj(values)) @ visual.proj_contrast
    torch.testing.assert_close(patch_features(tower, hidden).reshape(2, 16, 16), expected)


@torch.no_grad()
def test_patches_of_transformers_are_normed_and_projected() -> None:
    from glomflow.models.vlm.transformers_backbone import ClipVision, import_transformers

    transformers = import_transformers()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision_config = {**size, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(vision_config=vision_config, text_config=size, projection_dim=16)
    tower = ClipVision(transformers.CLIPModel(config).eval())
    hidden = last_state(tower, 32)
    expected = tower.projection(tower.tower.post_layernorm(hidden[:, 1:]))
    torch.testing.assert_close(patch_features(tower, hidden).reshape(2, 16, 16), expected)


@torch.no_grad()
def test_maps_are_cosines_row_by_row(tmp_path: Path) -> None:
    backbone = load(tmp_path, vision(layers=1))
    backbone.vision.visual.transformer.resblocks = torch.nn.ModuleList()  # so that patches do not mix
    pixels = torch.zeros(1, 3, 32, 32)
    text = functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(2)), dim=-1)
    plain = text_maps(backbone, pixels, text)
    pixels[0, :, 8:16, 24:32] = 1.0  # second row, last column
    changed = text_maps(backbone, pixels, text)
    assert plain.shape == (1, 3, 4, 4)
    assert torch.nonzero((plain != changed).any(dim=1)).tolist() == [[0, 1, 3]]
    features = patch_features(backbone.vision, backbone.vision.stem(pixels))[0, 1, 3]
    expected = functional.cosine_similarity(features[None], text)
    torch.testing.assert_close(changed[0, :, 1, 3], expected)


def test_what_cannot_be_placed_is_refused(tmp_path: Path) -> None:
    backbone = load(tmp_path, CLIP)
    with pytest.raises(GlomflowError, match=r"7 tokens of which 1 stand before the patches leave 6, which"):
        patch_features(backbone.vision, torch.zeros(1, 7, 32))
    with pytest.raises(GlomflowError, match="does not say which of its tokens are patches"):
        patch_features(backbone.text, torch.zeros(1, 5, 32))


@pytest.mark.parametrize(
    ("resize", "height", "width", "expected"),
    [
        ("shortest", 100, 100, (0, 0, 100, 100)),
        ("shortest", 100, 200, (50, 0, 100, 100)),
        ("squash", 100, 200, (0, 0, 200, 100)),
        ("longest", 100, 200, (0, -48, 200, 200)),
        ("none", 100, 60, (5, 25, 50, 50)),
        ("none", 40, 50, (0, -5, 50, 50)),
    ],
)
def test_the_part_of_a_crop_that_a_model_sees(
    resize: str, height: int, width: int, expected: tuple[float, ...]
) -> None:
    preprocessing = Preprocessing(size=50, resize=resize, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert preprocessing.seen(height, width) == pytest.approx(expected)


def test_the_part_seen_is_where_a_bright_place_is_found() -> None:
    image = torch.zeros(1, 90, 150, 3, dtype=torch.uint8)
    image[0, 30:36, 60:66] = 255
    preprocessing = Preprocessing(size=45, mean=(0.0,) * 3, std=(1.0,) * 3)
    x, y, width, height = preprocessing.seen(90, 150)
    rows, columns = torch.nonzero(preprocessing(image)[0, 0] > 0.9, as_tuple=True)
    assert y + (float(rows.float().mean()) + 0.5) * height / 45 == pytest.approx(33, abs=0.5)
    assert x + (float(columns.float().mean()) + 0.5) * width / 45 == pytest.approx(63, abs=0.5)
