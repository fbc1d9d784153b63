"""Backbones of open_clip: CLIP, models with a text tower of their own, and CoCa."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glomflow.config_vlm import VlmPretraining
from glomflow.errors import GlomflowError
from glomflow.models.torchvision_compat import import_torchvision
from glomflow.models.vlm.backbone import Backbone, Tokeniser, Tower
from glomflow.models.vlm.conch_backbone import CONCH, SETTINGS, build_conch, conch_texts, is_conch
from glomflow.models.vlm.open_clip_text import OpenClipText, block_at
from glomflow.models.vlm.preprocessing import preprocessing_of
from glomflow.models.vlm.timm_tower import TimmTower
from glomflow.models.vlm.weights import Source, load_strictly
from glomflow.models.weight_files import State, read_state

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
"""Names of a model's files in a folder or a hub repository, as open_clip writes them."""

_HUB_FILES = (WEIGHTS_FILE, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_CONTEXT = 77  # what open_clip takes where a text_cfg does not say
_SPARE = r"input_resolution|context_length|vocab_size|.*position_ids"
"""Numbers beside the weights in old checkpoints; they say what the architecture says."""


def import_open_clip() -> Any:
    """Imports open_clip (several seconds the first time), with torchvision made importable first."""
    import_torchvision()
    import open_clip

    return open_clip


class VisionTower(Tower):
    """open_clip's own ViT.

    Args:
        visual: open_clip's ``VisionTransformer``.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        blocks: nn.ModuleList = self.visual.transformer.resblocks
        return blocks

    @property
    def prefix(self) -> int:
        """The class token."""
        return 1

    def stem(self, inputs: Tensor) -> Tensor:
        """Embeds patches of pixels (N, 3, S, S)."""
        hidden: Tensor = self.visual._embeds(inputs)
        return hidden

    def head(self, hidden: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Pools and projects."""
        pooled: Tensor = self.visual._pool(hidden)[0]
        return pooled if self.visual.proj is None else pooled @ self.visual.proj

    def _block(self, block: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
        return block(hidden)  # type: ignore[no-any-return]

    def _read(self, hidden: Tensor, inputs: Tensor | None) -> Tensor | None:
        if self.visual.attn_pool is not None or self.visual.pool_type != "tok":
            return None
        return torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)

    def _block_at(self, block: nn.Module, hidden: Tensor, place: Tensor, mask: Tensor | None) -> Tensor:
        return block_at(block, hidden, place, mask)


def build_open_clip(source: Source, phantom: Path | None = None) -> Backbone:
    """Builds a backbone of open_clip.

    Args:
        source: The backbone's section.
        phantom: Folder that the pretraining wrote.

    Raises:
        GlomflowError: As :func:`glomflow.models.vlm.backbone.load_backbone`.
    """
    weights: Path | None = None
    if source.kind == "phantom":
        if phantom is None:
            source.missing("the phantom model is not trained yet", "train it with pretrain_vlm first")
        described = _json_config(phantom / CONFIG_FILE, source.key("weights"))
        weights = source.checked(phantom / WEIGHTS_FILE)
    elif source.kind == "hub":
        described = _hub_config(source)
        if is_conch(described["model_cfg"]):
            return build_conch(source, described)
        weights = source.checked(source.hub_file(source.argument, _HUB_FILES))
    else:
        described = _named_config(source)
        if is_conch(described["model_cfg"]):
            return build_conch(source, described)
        if source.kind == "file":
            weights = source.checked(Path(source.argument))
        elif source.kind == "pretrained":
            described, weights = _pretrained(source, described)
    check_towers(described["model_cfg"], source)
    model = build_model(described["model_cfg"])
    if weights is not None:
        state = _own_layout(read_state(weights, source.key("weights")), model)
        load_strictly(model, state, f"{source.key('weights')}: {weights}", spare=_SPARE)
    return backbone_of(model, described, source)


def backbone_of(model: Any, described: dict[str, Any], source: Source) -> Backbone:
    """Wraps an open_clip model.

    Args:
        model: Its ``CLIP``, ``CustomTextCLIP`` or ``CoCa``; its modules are shared, not copied.
        described: ``model_cfg`` that it was built from, and ``preprocess_cfg``.
        source: The backbone's section.

    Raises:
        GlomflowError: A tower has no transformer blocks, or the tokeniser cannot be had.
    """
    settings = described["model_cfg"]
    text = settings["text_cfg"]
    visual = model.visual
    size = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
    owner = getattr(model, "text", model)
    pool = text.get("pool_type", "argmax")
    if hasattr(visual, "trunk"):
        if type(visual.trunk).__name__ != "VisionTransformer":
            _no_blocks(source, f"the image tower is {type(visual.trunk).__name__} of timm")
        tower: Tower = TimmTower(visual)
    else:
        tower = VisionTower(visual)
    context = int(model.context_length if owner is model else owner.context_length)
    return Backbone(
        source.name,
        tower,
        OpenClipText(owner, pool, text.get("eos_id", 2)),
        dim=int(settings["embed_dim"]),
        logit_scale=model.logit_scale,
        context_length=context,
        preprocessing=preprocessing_of(
            int(size), described.get("preprocess_cfg") or {}, source.key("architecture")
        ),
        tokeniser=open_clip_tokeniser(text, context, source),
        padding=int(text.get("pad_id", 0)),
    )


def build_model(settings: dict[str, Any]) -> Any:
    """Builds an open_clip model from its ``model_cfg``, with random weights that are always the same."""
    import_open_clip()
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    given = copy.deepcopy(settings)
    custom = given.pop("custom_text", False)
    kind = CoCa if "multimodal_cfg" in given else CustomTextCLIP if custom else CLIP
    if given["vision_cfg"].get("timm_model_name"):
        given["vision_cfg"]["timm_model_pretrained"] = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(**given).eval()


def check_towers(settings: dict[str, Any], source: Source) -> None:
    """Raises a GlomflowError if a tower of a ``model_cfg`` has no blocks that a method could train."""
    if isinstance(settings["vision_cfg"].get("layers"), list):
        _no_blocks(source, "the image tower is a ResNet")
    if settings["text_cfg"].get("hf_model_name"):
        _no_blocks(source, f"the text tower is {settings['text_cfg']['hf_model_name']} of transformers")
    for tower in ("vision_cfg", "text_cfg"):
        if settings[tower].get("block_type") == "custom" or settings[tower].get("scaled_cosine_attn"):
            _no_blocks(source, f"{tower} has blocks of its own kind")


def _no_blocks(source: Source, what: str) -> None:
    raise GlomflowError(
        f"{source.key('architecture')}: {source.settings.architecture or source.settings.weights}: {what}, "
        "which has no transformer blocks that can be cached before or trained here; choose a model with ViT "
        "and text transformer, such as ViT-B-16"
    )


def open_clip_tokeniser(text: dict[str, Any], context: int, source: Source) -> Tokeniser:
    """Returns the model's own tokeniser, or the one that the section names.

    Args:
        text: The model's ``text_cfg``.
        context: Most tokens.
        source: The backbone's section.

    Raises:
        GlomflowError: It is one of transformers that is not at hand.
    """
    named = source.settings.tokenizer or text.get("hf_tokenizer_name")
    if named:
        return _hub_tokeniser(str(named), text, context, source)
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer(context_length=context, **(text.get("tokenizer_kwargs") or {}))

    def tokens_of(sentence: str) -> list[int]:
        return [tokenizer.sot_token_id, *tokenizer.encode(sentence), tokenizer.eot_token_id]

    return tokens_of


def open_clip_texts(source: Source, pretraining: VlmPretraining) -> tuple[Tokeniser, int]:
    """Returns a model's tokeniser and most tokens of a text, without its weights.

    Args:
        source: The backbone's section.
        pretraining: What the model of ``weights: phantom`` will be.

    Raises:
        GlomflowError: The architecture is not known, or the tokeniser cannot be had.
    """
    if source.kind == "phantom":
        text = {"context_length": pretraining.context_length}
    else:
        described = _hub_config(source) if source.kind == "hub" else _named_config(source)
        if is_conch(described["model_cfg"]):
            return conch_texts(source, described)
        text = described["model_cfg"]["text_cfg"]
    import_open_clip()
    context = int(text.get("context_length", _CONTEXT))
    return open_clip_tokeniser(text, context, source), context


def _hub_tokeniser(name: str, text: dict[str, Any], context: int, source: Source) -> Tokeniser:
    from open_clip.tokenizer import HFTokenizer

    from glomflow.models.vlm.transformers_backbone import no_tokeniser

    mode = text.get("tokenizer_mode")
    try:
        tokenizer = HFTokenizer(
            name,
            context_length=context,
            tokenizer_mode=mode,
            local_files_only=source.offline,
            **(text.get("tokenizer_kwargs") or {}),
        )
    except (OSError, ValueError) as error:
        no_tokeniser(name, source, error)

    def tokens_of(sentence: str) -> list[int]:
        clean = tokenizer.clean_fn(sentence)
        if mode == "clips":  # a token each for begin, end and class
            whole = [*tokenizer.tokenizer(clean, add_special_tokens=False)["input_ids"], 0, 0, 0]
        else:
            whole = tokenizer.tokenizer(clean, truncation=False)["input_ids"]
        return list(whole) if len(whole) > context else tokenizer([sentence])[0].tolist()

    return tokens_of


def _named_config(source: Source) -> dict[str, Any]:
    """Returns ``model_cfg`` and ``preprocess_cfg`` of a named architecture or of a JSON file."""
    name = source.settings.architecture or ""
    if name.endswith(".json"):
        return _json_config(Path(name), source.key("architecture"))
    if name == CONCH:
        return {"model_cfg": SETTINGS, "preprocess_cfg": {}}
    open_clip = import_open_clip()
    found = open_clip.get_model_config(name)
    if found is None:
        import difflib

        near = difflib.get_close_matches(name, open_clip.list_models(), n=3)
        advice = f"; did you mean one of {', '.join(near)}" if near else ""
        raise GlomflowError(
            f"{source.key('architecture')}: open_clip has no architecture '{name}'{advice}, or name a JSON "
            "file of its format"
        )
    return {"model_cfg": found, "preprocess_cfg": {}}


def _json_config(path: Path, key: str) -> dict[str, Any]:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GlomflowError(f"{key}: {path} cannot be read as JSON ({error}); correct the path") from error
    if isinstance(given, dict) and "model_cfg" not in given:
        given = {"model_cfg": given, "preprocess_cfg": {}}
    missing = [
        part
        for part in ("embed_dim", "vision_cfg", "text_cfg")
        if not isinstance(given, dict) or part not in given["model_cfg"]
    ]
    if missing:
        raise GlomflowError(
            f"{key}: {path} lacks {', '.join(missing)}; it must describe a model as open_clip does"
        )
    return given  # type: ignore[no-any-return]


def _hub_config(source: Source) -> dict[str, Any]:
    if source.settings.architecture is not None:
        return _named_config(source)
    return _json_config(source.hub_file(source.argument, [CONFIG_FILE]), source.key("weights"))


def _pretrained(source: Source, described: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """Finds or downloads open_clip's own weights of a tag; the tag says activation and preprocessing."""
    import_open_clip()
    from open_clip import pretrained

    name = (source.settings.architecture or "").replace("/", "-")
    tag = pretrained.get_pretrained_cfg(name, source.argument)
    if not tag:
        known = ", ".join(pretrained.list_pretrained_tags_by_model(name)) or "none"
        raise GlomflowError(
            f"{source.key('weights')}: open_clip has no weights '{source.argument}' of {name}; it has {known}"
        )
    settings = {**described["model_cfg"], "quick_gelu": bool(tag.get("quick_gelu", False))}
    described = {"model_cfg": settings, "preprocess_cfg": tag}
    if tag.get("hf_hub"):
        repository, _, file = tag["hf_hub"].rpartition("/")
        files = [file.rsplit(".", 1)[0] + ".safetensors", file] if file else list(_HUB_FILES)
        return described, source.checked(source.hub_file(repository, files))
    return described, source.checked(_from_url(source, tag["url"]))


def _from_url(source: Source, url: str) -> Path:
    from open_clip import pretrained

    cached = Path("~/.cache/clip").expanduser() / url.rsplit("/", 1)[-1]
    if cached.is_file():
        return cached
    if source.offline:
        source.missing(
            f"the weights '{source.argument}' are not in the cache ({cached}) and run.offline is true",
            f"download {url} and name it as 'file:<path>', or set run.offline to false once",
        )
    try:
        return Path(pretrained.download_pretrained_from_url(url))
    except (OSError, RuntimeError, ValueError) as error:
        return source.missing(f"{url} cannot be had ({error})", "download it and name it as 'file:<path>'")


def _own_layout(state: State, model: Any) -> State:
    """Moves the text tensors of an old checkpoint to where a model with its own text tower has them."""
    scale = state.get("logit_scale")
    if scale is not None and scale.shape != model.logit_scale.shape and scale.numel() == 1:
        state = {**state, "logit_scale": scale.reshape(model.logit_scale.shape)}
    if not hasattr(model, "text") or "positional_embedding" not in state:
        return state
    from open_clip.model import convert_to_custom_text_state_dict

    return dict(convert_to_custom_text_state_dict(state))
