"""CONCH: a CoCa whose image tower is a ViT of timm with attentional pooling (Lu 2024).

The layout is told from the authors' description of the model (names and shapes of tensors); weights are given
on request, and were not at hand here: a file that differs is refused with the first tensors that do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glomflow.errors import GlomflowError
from glomflow.models.torchvision_compat import import_timm
from glomflow.models.vlm.backbone import Backbone, Tokeniser
from glomflow.models.vlm.open_clip_text import OpenClipText
from glomflow.models.vlm.preprocessing import preprocessing_of
from glomflow.models.vlm.timm_tower import TimmTower
from glomflow.models.vlm.weights import Source, load_strictly
from glomflow.models.weight_files import read_state

CONCH = "conch_ViT-B-16"
"""Name of the architecture."""

REPOSITORY = "MahmoodLab/conch"

SETTINGS: dict[str, Any] = {
    "embed_dim": 512,
    "embed_dim_caption": 768,
    "vision_cfg": {
        "image_size": 448,
        "patch_size": 16,
        "width": 768,
        "layers": 12,
        "num_heads": 12,
        "attentional_pool_contrast": True,
        "attentional_pool_caption": True,
        "attn_pooler_heads": 8,
        "n_queries_contrast": 1,
        "n_queries_caption": 256,
    },
    "text_cfg": {
        "context_length": 128,
        "vocab_size": 32007,
        "width": 768,
        "heads": 12,
        "layers": 12,
        "embed_cls": True,
    },
}
"""The published configuration; ``context_length`` counts the class token."""

_DECODER = r"text_decoder\..*"
_SPECIAL = {"bos_token": "<start_of_text>", "eos_token": "<end_of_text>", "pad_token": "<pad>"}
_ACCESS = (
    f"CONCH is given on request: ask at https://huggingface.co/{REPOSITORY} (licence CC-BY-NC-ND 4.0), "
    "then set weights to 'file:<path of pytorch_model.bin>' and sha256"
)


class ConchImages(nn.Module):
    """The parts of CONCH's image tower, under the names of its checkpoint.

    Args:
        settings: The whole description, as :data:`SETTINGS`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        import_timm()
        from open_clip.transformer import AttentionalPooler
        from timm.models.vision_transformer import VisionTransformer

        vision, dim = settings["vision_cfg"], int(settings["embed_dim"])
        width, heads = int(vision["width"]), int(vision["attn_pooler_heads"])
        trunk: Any = VisionTransformer(
            img_size=vision["image_size"],
            patch_size=vision["patch_size"],
            embed_dim=width,
            depth=vision["layers"],
            num_heads=vision["num_heads"],
            num_classes=0,
        )
        self.trunk: Any = trunk
        self.attn_pool_contrast = AttentionalPooler(dim, width, heads, int(vision["n_queries_contrast"]))
        self.ln_contrast = nn.LayerNorm(dim)
        self.proj_contrast = nn.Parameter(width**-0.5 * torch.randn(dim, dim))
        if vision.get("attentional_pool_caption"):
            caption = int(settings["embed_dim_caption"])
            self.attn_pool_caption = AttentionalPooler(
                caption, width, heads, int(vision["n_queries_caption"])
            )
            self.ln_caption = nn.LayerNorm(caption)


class ConchTower(TimmTower):
    """CONCH's image tower: a ViT of timm with a pooling of its own.

    Args:
        visual: Its parts, :class:`ConchImages`.
    """

    def head(self, hidden: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Pools by attention of the first query and projects."""
        pooled = self.visual.attn_pool_contrast(self.visual.trunk.norm(hidden))[:, 0]
        features: Tensor = self.visual.ln_contrast(pooled) @ self.visual.proj_contrast
        return features


class ConchParts(nn.Module):
    """Everything that a CONCH checkpoint holds, except the decoder.

    Args:
        settings: The whole description, as :data:`SETTINGS`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        from open_clip.transformer import TextTransformer

        text = dict(settings["text_cfg"])
        context = int(text.pop("context_length")) - 1
        self.visual = ConchImages(settings)
        self.text = TextTransformer(
            context_length=context, output_dim=int(settings["embed_dim"]), output_tokens=True, **text
        )
        self.logit_scale = nn.Parameter(torch.zeros(()))


def is_conch(settings: dict[str, Any]) -> bool:
    """Tells whether a ``model_cfg`` is of this layout."""
    return bool(settings["vision_cfg"].get("attentional_pool_contrast"))


def build_conch(source: Source, described: dict[str, Any]) -> Backbone:
    """Builds CONCH.

    Args:
        source: The backbone's section; ``tokenizer`` names the JSON file of its tokeniser.
        described: ``model_cfg``, as :data:`SETTINGS`, and ``preprocess_cfg``.

    Raises:
        GlomflowError: Weights or tokeniser are missing, or the weights have other names or shapes.
    """
    settings = described["model_cfg"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ConchParts(settings).eval()
    if source.kind != "random":
        path = _weights(source)
        key = source.key("weights")
        load_strictly(model, read_state(path, key), f"{key}: {path}", spare=_DECODER)
    tokeniser, context = conch_texts(source, described)
    return Backbone(
        source.name,
        ConchTower(model.visual),
        OpenClipText(model.text, "last", None),
        dim=int(settings["embed_dim"]),
        logit_scale=model.logit_scale,
        context_length=context,
        preprocessing=preprocessing_of(
            int(settings["vision_cfg"]["image_size"]),
            described.get("preprocess_cfg") or {},
            source.key("architecture"),
        ),
        tokeniser=tokeniser,
    )


def conch_texts(source: Source, described: dict[str, Any]) -> tuple[Tokeniser, int]:
    """Returns CONCH's tokeniser and most tokens of a text, without its weights.

    Args:
        source: The backbone's section; ``tokenizer`` names the JSON file of its tokeniser.
        described: ``model_cfg``, as :data:`SETTINGS`.

    Raises:
        GlomflowError: The tokeniser is missing.
    """
    return _tokeniser(source), int(described["model_cfg"]["text_cfg"]["context_length"]) - 1


def _weights(source: Source) -> Path:
    if source.kind == "hub":
        return source.checked(source.hub_file(source.argument, ["pytorch_model.bin"]))
    if source.kind != "file":
        raise GlomflowError(f"{source.key('weights')}: open_clip has no weights of CONCH. {_ACCESS}")
    path = Path(source.argument)
    if not path.is_file():
        source.missing(f"there is no file {path}", _ACCESS)
    return source.checked(path)


def _tokeniser(source: Source) -> Tokeniser:
    given = source.settings.tokenizer
    if given is None or not Path(given).is_file():
        raise GlomflowError(
            f"{source.key('tokenizer')}: CONCH has a tokeniser of its own, and "
            f"{'none is named' if given is None else f'there is no file {given}'}; name its file "
            "conch_byte_level_bpe_uncased.json, from conch/open_clip_custom/tokenizers of "
            "https://github.com/mahmoodlab/CONCH"
        )
    from glomflow.models.vlm.transformers_backbone import import_transformers

    tokenizer = import_transformers().PreTrainedTokenizerFast(tokenizer_file=given, **_SPECIAL)

    def tokens_of(sentence: str) -> list[int]:
        return [int(token) for token in tokenizer(sentence, truncation=False)["input_ids"]]

    return tokens_of
