"""Backbones of the library transformers: models of the Hugging Face CLIP format, such as PLIP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional

from glomflow.errors import GlomflowError
from glomflow.models.torchvision_compat import import_torchvision
from glomflow.models.vlm.backbone import Backbone, TextTower, Tokeniser, Tower, token_at
from glomflow.models.vlm.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing
from glomflow.models.vlm.weights import Source, load_strictly
from glomflow.models.weight_files import read_state

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_RESAMPLING = {2: "bilinear", 3: "bicubic"}
_OLD_END = 2
"""An ``eos_token_id`` that many published CLIP configurations carry in error; their text ends at the
largest token."""


def import_transformers() -> Any:
    """Imports transformers (several seconds the first time), with torchvision made importable first."""
    import_torchvision()
    import transformers

    return transformers


class ClipVision(Tower):
    """The image tower of a ``CLIPModel``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower = model.vision_model
        self.projection = model.visual_projection

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        blocks: nn.ModuleList = self.tower.encoder.layers
        return blocks

    @property
    def prefix(self) -> int:
        """The class token."""
        return 1

    def stem(self, inputs: Tensor) -> Tensor:
        """Embeds patches of pixels (N, 3, S, S)."""
        hidden: Tensor = self.tower.pre_layrnorm(self.tower.embeddings(inputs))
        return hidden

    def head(self, hidden: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Takes the class token and projects it."""
        features: Tensor = self.projection(self.tower.post_layernorm(hidden[:, 0]))
        return features

    def _block(self, block: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
        return block(hidden, attention_mask=None)  # type: ignore[no-any-return]

    def _read(self, hidden: Tensor, inputs: Tensor | None) -> Tensor | None:
        return torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)

    def _block_at(self, block: nn.Module, hidden: Tensor, place: Tensor, mask: Tensor | None) -> Tensor:
        return block_at(block, hidden, place, mask)


class ClipText(TextTower):
    """The text tower of a ``CLIPModel``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower = model.text_model
        self.projection = model.text_projection
        self.end = int(model.config.text_config.eos_token_id)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        blocks: nn.ModuleList = self.tower.encoder.layers
        return blocks

    def token_embeddings(self, tokens: Tensor) -> Tensor:
        """Returns the embeddings of tokens, without positions."""
        embeddings: Tensor = self.tower.embeddings.token_embedding(tokens)
        return embeddings

    def embedded(self, embeddings: Tensor) -> Tensor:
        """Adds positions."""
        hidden: Tensor = self.tower.embeddings(inputs_embeds=embeddings)
        return hidden

    def head(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        """Takes the state at the text's end and projects it."""
        return self._head_at(token_at(hidden, self._read(hidden, inputs)))

    def _mask(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        length = hidden.shape[1]
        mask = torch.full((length, length), float("-inf"), dtype=hidden.dtype, device=hidden.device)
        return mask.triu_(1)[None, None]

    def _block(self, block: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
        return block(hidden, attention_mask=mask)  # type: ignore[no-any-return]

    def _read(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        if inputs is None:
            raise GlomflowError("a text tower finds the end of the text in its tokens; pass them to head()")
        return inputs.argmax(dim=-1) if self.end == _OLD_END else (inputs == self.end).int().argmax(dim=-1)

    def _block_at(self, block: nn.Module, hidden: Tensor, place: Tensor, mask: Tensor | None) -> Tensor:
        return block_at(block, hidden, place, mask)

    def _head_at(self, token: Tensor) -> Tensor:
        features: Tensor = self.projection(self.tower.final_layer_norm(token[:, 0]))
        return features


def block_at(block: Any, hidden: Tensor, place: Tensor, mask: Tensor | None) -> Tensor:
    """Runs a ``CLIPEncoderLayer`` for one token of each sequence, (N, L, width) to (N, 1, width)."""
    own, seen, attention = token_at(hidden, place), block.layer_norm1(hidden), block.self_attn
    q, k, v = (
        each.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for each in (
            attention.q_proj(token_at(seen, place)),
            attention.k_proj(seen),
            attention.v_proj(seen),
        )
    )
    rows = None if mask is None else mask[0, 0][place][:, None, None]
    attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=rows, scale=attention.scale)
    own = own + attention.out_proj(attended.transpose(1, 2).flatten(2))
    result: Tensor = own + block.mlp(block.layer_norm2(own))
    return result


def build_transformers(source: Source) -> Backbone:
    """Builds a backbone from a local folder or a hub repository.

    Raises:
        GlomflowError: Files are missing, the model is of another kind, or its weights differ from its
            configuration.
    """
    transformers = import_transformers()
    config = _config(source)
    with torch.random.fork_rng(devices=[]):
        model = transformers.CLIPModel(config).eval()
    weights = source.checked(_file(source, _WEIGHTS))
    state = read_state(weights, source.key("weights"))
    load_strictly(model, state, f"{source.key('weights')}: {weights}", spare=r".*position_ids")
    tokeniser, context = transformers_texts(source)
    text = config.text_config
    return Backbone(
        source.name,
        ClipVision(model),
        ClipText(model),
        dim=int(config.projection_dim),
        logit_scale=model.logit_scale,
        context_length=context,
        preprocessing=_preprocessing(source, int(config.vision_config.image_size)),
        tokeniser=tokeniser,
        padding=int(text.pad_token_id if text.pad_token_id is not None else 0),
    )


def _config(source: Source) -> Any:
    folder = Path(source.argument)
    if source.kind == "file" and not folder.is_dir():
        source.missing(f"there is no folder {folder}", "name the folder that holds config.json after 'file:'")
    described = _json(_file(source, ["config.json"]))
    if described.get("model_type") != "clip":
        raise GlomflowError(
            f"{source.key('weights')}: {source.argument} is a model of type '{described.get('model_type')}'; "
            "library transformers takes models of type clip; with library open_clip others can be had"
        )
    return import_transformers().CLIPConfig.from_dict(described)


def transformers_texts(source: Source) -> tuple[Tokeniser, int]:
    """Returns a model's tokeniser and most tokens of a text, without its weights.

    Raises:
        GlomflowError: Files are missing, or the model is of another kind.
    """
    context = int(_config(source).text_config.max_position_embeddings)
    return transformers_tokeniser(_tokeniser_folder(source), source), context


def transformers_tokeniser(folder: str, source: Source) -> Tokeniser:
    """Returns a tokeniser of transformers.

    Args:
        folder: Its folder, or a name on the hub.
        source: The backbone's section.

    Raises:
        GlomflowError: It cannot be had.
    """
    transformers = import_transformers()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=source.offline)
    except (OSError, ValueError) as error:
        no_tokeniser(folder, source, error)

    def tokens_of(sentence: str) -> list[int]:
        return [int(token) for token in tokenizer(sentence, truncation=False)["input_ids"]]

    return tokens_of


def no_tokeniser(name: str, source: Source, error: Exception) -> NoReturn:
    """Raises the error for a tokeniser that cannot be had."""
    reason = " and run.offline is true" if source.offline else ""
    raise GlomflowError(
        f"{source.key('tokenizer')}: the tokeniser {name} cannot be had{reason} ({error}); download it and "
        "name its folder"
    ) from error


def _file(source: Source, names: list[str] | tuple[str, ...]) -> Path:
    if source.kind == "hub":
        return source.hub_file(source.argument, names)
    found = [Path(source.argument) / name for name in names if (Path(source.argument) / name).is_file()]
    if not found:
        source.missing(
            f"{source.argument} has no {' or '.join(names)}", "put it there or name another folder"
        )
    return found[0]


def _tokeniser_folder(source: Source) -> str:
    """Returns the tokeniser's folder; of a hub repository, its files are fetched to the cache."""
    if source.settings.tokenizer is not None:
        return source.settings.tokenizer
    if source.kind == "file":
        return source.argument
    folder = source.hub_file(source.argument, ["config.json"]).parent
    if not source.offline:
        from huggingface_hub import snapshot_download

        snapshot_download(source.argument, allow_patterns=list(_TOKENIZER))
    return str(folder)


def _preprocessing(source: Source, size: int) -> Preprocessing:
    """Reads ``preprocessor_config.json``, by the defaults of transformers' ``CLIPImageProcessor``."""
    given = _json(_file(source, _PREPROCESSING))
    given = given.get("image_processor", given)
    edge = _edge(given.get("size", {"shortest_edge": 224}))
    crop = _edge(given.get("crop_size", 224)) if given.get("do_center_crop", True) else edge
    resample = _RESAMPLING.get(int(given.get("resample", 3)))
    if resample is None or not edge == crop == size or not given.get("do_resize", True):
        raise GlomflowError(
            f"{source.key('weights')}: the preprocessing of {source.argument} (size {edge}, crop {crop}, "
            f"resample {given.get('resample', 3)}) does not give the model's {size} px, or resizes otherwise "
            "than bilinearly or bicubically; correct its preprocessor_config.json"
        )
    red, green, blue = (float(value) for value in given.get("image_mean") or CLIP_MEAN)
    deviations = [float(value) for value in given.get("image_std") or CLIP_STD]
    squash = isinstance(given.get("size"), dict) and "height" in given["size"]
    return Preprocessing(
        size=size,
        resize="squash" if squash else "shortest",
        interpolation="bilinear" if resample == "bilinear" else "bicubic",
        mean=(red, green, blue),
        std=(deviations[0], deviations[1], deviations[2]),
    )


def _edge(given: Any) -> int:
    if isinstance(given, dict):
        return int(given.get("shortest_edge") or given.get("height") or 0)
    return int(given)


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GlomflowError(f"{path} cannot be read as JSON ({error}); get the file again") from error
    return content
