"""CONCH's layout, with a small model of it: its own weights are given on request only."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from glomflow.config_vlm import VlmBackbone
from glomflow.errors import GlomflowError
from glomflow.models.torchvision_compat import import_torchvision
from glomflow.models.vlm.backbone import Backbone, load_backbone
from glomflow.models.vlm.conch_backbone import SETTINGS, ConchParts

import_torchvision()
pytest.importorskip("open_clip")

SMALL = {
    "embed_dim": 16,
    "embed_dim_caption": 24,
    "vision_cfg": {
        **SETTINGS["vision_cfg"],
        "image_size": 32,
        "patch_size": 8,
        "width": 48,
        "layers": 2,
        "num_heads": 4,
        "attn_pooler_heads": 2,
        "n_queries_caption": 5,
    },
    "text_cfg": {
        **SETTINGS["text_cfg"],
        "context_length": 12,
        "vocab_size": 30,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokeniser of whole words in the format of CONCH's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "<start_of_text>", "<end_of_text>", "a", "sclerotic", "glomerulus"]
    made = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="a"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(words[:3])
    made.post_processor = processors.TemplateProcessing(
        single="<start_of_text> $A <end_of_text>", special_tokens=[(words[1], 1), (words[2], 2)]
    )
    path = tmp_path_factory.mktemp("conch") / "tokenizer.json"
    made.save(str(path))
    return path


def load(folder: Path, **values: object) -> Backbone:
    path = folder / "architecture.json"
    path.write_text(json.dumps(SMALL))
    given = {"architecture": str(path), "weights": "random"} | values
    return load_backbone("conch", VlmBackbone.model_validate(given), offline=True)


def written(folder: Path, **extra: torch.Tensor) -> tuple[ConchParts, Path]:
    torch.manual_seed(1)
    parts = ConchParts(SMALL).eval()
    for parameter in parts.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    path = folder / "conch.safetensors"
    save_file({**{name: value.contiguous() for name, value in parts.state_dict().items()}, **extra}, path)
    return parts, path


def test_images_are_pooled_by_attention(tmp_path: Path, tokenizer: Path) -> None:
    parts, path = written(tmp_path, **{"text_decoder.ln_final.weight": torch.ones(3)})
    ours = load(tmp_path, weights=f"file:{path}", tokenizer=str(tokenizer)).double()
    visual = parts.visual.double()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        tokens = visual.trunk.patch_embed(pixels)
        tokens = torch.cat([visual.trunk.cls_token.expand(2, -1, -1), tokens], dim=1) + visual.trunk.pos_embed
        for block in visual.trunk.blocks:
            tokens = block(tokens)
        pool = visual.attn_pool_contrast
        keys = pool.ln_k(visual.trunk.norm(tokens))
        weights = pool.attn
        bias = weights.in_proj_bias.chunk(3)
        q, k, v = (
            functional.linear(x, w, b).unflatten(-1, (2, 8)).transpose(1, 2)
            for x, w, b in zip(
                (pool.ln_q(pool.query)[None].expand(2, -1, -1), keys, keys),
                (weights.q_proj_weight, weights.k_proj_weight, weights.v_proj_weight),
                bias,
                strict=True,
            )
        )
        seen = ((q @ k.transpose(-1, -2)) / 8**0.5).softmax(dim=-1) @ v
        pooled = weights.out_proj(seen.transpose(1, 2).flatten(2))[:, 0]
        expected = visual.ln_contrast(pooled) @ visual.proj_contrast
        torch.testing.assert_close(ours.vision(pixels), expected, rtol=1e-9, atol=1e-9)
    assert (ours.dim, ours.image_size, ours.context_length) == (16, 32, 11)


def test_text_ends_with_a_class_token_that_sees_no_filling(tmp_path: Path, tokenizer: Path) -> None:
    parts, path = written(tmp_path)
    ours = load(tmp_path, weights=f"file:{path}", tokenizer=str(tokenizer))
    tokens = ours.tokenise(["a sclerotic glomerulus", "glomerulus"])
    assert tokens[0].tolist() == [1, 3, 4, 5, 2, 0, 0, 0, 0, 0, 0]
    with torch.no_grad():
        torch.testing.assert_close(ours.text(tokens), parts.text(tokens)[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(GlomflowError, match=r"conch takes 11 tokens, it has 12"):
        ours.tokenise(["a " * 10])


def test_published_names_and_shapes() -> None:
    with torch.device("meta"):
        state = ConchParts(SETTINGS).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert shapes["visual.trunk.pos_embed"] == (1, 785, 768)
    assert shapes["visual.trunk.blocks.11.attn.qkv.weight"] == (2304, 768)
    assert shapes["visual.attn_pool_contrast.query"] == (1, 512)
    assert shapes["visual.attn_pool_contrast.attn.k_proj_weight"] == (512, 768)
    assert shapes["visual.attn_pool_caption.query"] == (256, 768)
    assert shapes["visual.proj_contrast"] == (512, 512)
    assert shapes["text.positional_embedding"] == (128, 768)
    assert shapes["text.cls_emb"] == (768,)
    assert shapes["text.text_projection"] == (768, 512)
    assert shapes["text.token_embedding.weight"] == (32007, 768)


def test_what_is_missing_says_where_to_ask(tmp_path: Path, tokenizer: Path) -> None:
    ask = r"https://huggingface\.co/MahmoodLab/conch"
    with pytest.raises(GlomflowError, match=ask):
        load(tmp_path, weights="file:/nowhere/conch.bin", tokenizer=str(tokenizer))
    with pytest.raises(GlomflowError, match=ask):
        load(tmp_path, weights="pretrained:openai", tokenizer=str(tokenizer))
    with pytest.raises(GlomflowError, match=r"vlm\.backbones\.conch\.tokenizer: .*none is named.*github"):
        load(tmp_path)


def test_a_file_of_another_layout_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    _, path = written(tmp_path, stray=torch.ones(1))
    with pytest.raises(GlomflowError, match=r"1 of its tensors \(first: stray is not the architecture's"):
        load(tmp_path, weights=f"file:{path}", tokenizer=str(tokenizer))
