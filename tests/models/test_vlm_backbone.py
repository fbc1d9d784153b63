"""Backbones: towers cut between blocks, preprocessing, tokens, weights."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file

from glomflow.config_vlm import VlmBackbone, VlmPretraining
from glomflow.errors import GlomflowError
from glomflow.files import sha256_file
from glomflow.models.torchvision_compat import import_torchvision
from glomflow.models.vlm.backbone import attention_projections, load_backbone, load_tokeniser
from glomflow.models.vlm.open_clip_backbone import build_model
from glomflow.models.vlm.preprocessing import Preprocessing, preprocessing_of, resize, resize_floats

import_torchvision()
open_clip = pytest.importorskip("open_clip")

VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
TIMM = {
    "timm_model_name": "vit_tiny_patch16_224",
    "timm_model_pretrained": False,
    "timm_pool": "avg",
    "timm_proj": "linear",
    "image_size": 224,
}
CLIP = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
SIGLIP_TEXT = {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}
COCA_TEXT = {**TEXT, "embed_cls": True, "output_tokens": True}
COCA_VISION = {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
LAYOUTS = {
    "clip": CLIP,
    "quick": {**CLIP, "quick_gelu": True},
    "pooled": {
        **CLIP,
        "vision_cfg": {**VISION, "pool_type": "avg", "final_ln_after_pool": True, "ls_init_value": 0.1},
    },
    "custom": {**CLIP, "custom_text": True, "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407}},
    "siglip": {"embed_dim": 192, "vision_cfg": TIMM, "text_cfg": SIGLIP_TEXT, "custom_text": True},
    "coca": {
        "embed_dim": 16,
        "vision_cfg": COCA_VISION,
        "text_cfg": COCA_TEXT,
        "multimodal_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        "custom_text": True,
    },
}
TEXTS = ["a glomerulus", "a pathology image of a globally sclerotic glomerulus, shrunken and solid"]


def json_file(folder: Path, description: dict) -> str:
    path = folder / "architecture.json"
    path.write_text(json.dumps(description))
    return str(path)


def settings(folder: Path, description: dict, **values: object) -> VlmBackbone:
    given = {"architecture": json_file(folder, description), "weights": "random"} | values
    return VlmBackbone.model_validate(given)


def load(folder: Path, description: dict, **values: object):
    return load_backbone("small", settings(folder, description, **values), offline=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_tokeniser_is_had_without_the_model(layout: str, tmp_path: Path) -> None:
    description = LAYOUTS[layout]
    section = settings(tmp_path, description)
    whole = load_backbone("small", section, offline=True)
    tokeniser, context = load_tokeniser("small", section, offline=True, pretraining=VlmPretraining())
    assert context == whole.context_length == 24
    tokens = tokeniser(TEXTS[1])
    assert whole.tokenise(TEXTS)[1, : len(tokens)].tolist() == tokens


@pytest.mark.parametrize("layout", LAYOUTS)
def test_towers_are_the_librarys_own_encodings(layout: str, tmp_path: Path) -> None:
    description = LAYOUTS[layout]
    theirs = build_model(description)
    for parameter in theirs.parameters():  # so that no bias and no positional embedding is zero
        parameter.data += 0.05 * torch.randn(parameter.shape)
    save_file(
        {name: value.contiguous() for name, value in theirs.state_dict().items()}, tmp_path / "w.safetensors"
    )
    ours = load(tmp_path, description, weights=f"file:{tmp_path / 'w.safetensors'}")
    theirs, ours = theirs.double(), ours.double()  # in which rounding does not hide a difference
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, ours.image_size, ours.image_size, generator=generator).double()
    tokens = ours.tokenise(TEXTS)
    options = {"normalize": False} if layout == "coca" else {}
    with torch.no_grad():
        image, text = theirs.encode_image(pixels, **options), theirs.encode_text(tokens, **options)
        torch.testing.assert_close(ours.vision(pixels), image, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.text(tokens), text, rtol=1e-9, atol=1e-9)
        hidden = ours.vision.run(ours.vision.stem(pixels), 0, 1)
        torch.testing.assert_close(
            ours.vision.head(ours.vision.run(hidden, 1), None), image, rtol=1e-9, atol=1e-9
        )
        close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
        close(ours.vision.tail(hidden, 1), image)
        close(ours.vision.tail(ours.vision.run(hidden, 1), len(ours.vision.blocks)), image)
        hidden = ours.text.run(ours.text.stem(tokens), 0, 1, tokens)
        close(ours.text.tail(hidden, 1, tokens), text)
        torch.testing.assert_close(
            ours.text.head(ours.text.run(hidden, 1, None, tokens), tokens), text, rtol=1e-9, atol=1e-9
        )
        embeddings = ours.text.token_embeddings(tokens)
        torch.testing.assert_close(ours.text.from_embeddings(embeddings, tokens), text, rtol=1e-9, atol=1e-9)
        features = ours.text_features(tokens)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2).double())
    assert ours.dim == image.shape[1]
    assert float(ours.logit_scale.detach()) == pytest.approx(float(theirs.logit_scale.detach()))
    assert not any(parameter.requires_grad for parameter in ours.parameters())


@pytest.mark.parametrize(
    ("layout", "image", "text"), [("clip", 1, 1), ("custom", 1, 1), ("pooled", 17, 1), ("coca", 17, 25)]
)
def test_the_last_block_gives_only_the_token_that_the_head_reads(
    layout: str, image: int, text: int, tmp_path: Path
) -> None:
    ours = load(tmp_path, LAYOUTS[layout])
    seen: dict[str, int] = {}
    for tower in ("vision", "text"):
        last = getattr(ours, tower).blocks[-1].mlp
        last.register_forward_hook(
            lambda module, given, made, tower=tower: seen.update({tower: given[0].shape[1]})
        )
    tokens = ours.tokenise(TEXTS)
    hidden = ours.vision.stem(torch.zeros(2, 3, ours.image_size, ours.image_size))
    ours.vision.tail(hidden, 0)
    ours.text.tail(ours.text.stem(tokens), 0, tokens)
    assert seen == {"vision": image, "text": text}
    doubled = ours.vision.blocks[-1].register_forward_hook(lambda block, given, made: 2.0 * made)
    torch.testing.assert_close(
        ours.vision.tail(hidden, 0), ours.vision.head(ours.vision.run(hidden, 0), None)
    )
    doubled.remove()


def test_tokens_are_the_librarys_own(tmp_path: Path) -> None:
    ours = load(tmp_path, CLIP)
    assert torch.equal(ours.tokenise(TEXTS), open_clip.SimpleTokenizer(context_length=24)(TEXTS))


@pytest.mark.parametrize("layout", ["clip", "custom"])
def test_what_fills_a_text_up_changes_nothing(layout: str, tmp_path: Path) -> None:
    ours = load(tmp_path, LAYOUTS[layout])
    tokens = ours.tokenise(TEXTS)
    used = int(tokens.argmax(dim=1).max()) + 1
    assert used < tokens.shape[1]
    torch.testing.assert_close(ours.text(tokens[:, :used]), ours.text(tokens), rtol=1e-5, atol=1e-5)


def test_a_prompt_that_is_too_long_is_named(tmp_path: Path) -> None:
    ours = load(tmp_path, CLIP)
    text = "a glomerulus " * 12
    with pytest.raises(GlomflowError, match=r"prompt 'a glomerulus .*24 tokens, it has 50"):
        ours.tokenise(["a glomerulus", text])


def test_a_text_tower_that_masks_by_tokens_asks_for_them(tmp_path: Path) -> None:
    ours = load(tmp_path, LAYOUTS["coca"])
    tokens = ours.tokenise(TEXTS)
    with pytest.raises(GlomflowError, match="pass them to run"):
        ours.text.run(ours.text.stem(tokens), 0)


@pytest.mark.parametrize(("height", "width"), [(90, 90), (61, 83), (83, 61), (32, 32), (21, 30)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_preprocessing_is_the_librarys_own(height: int, width: int, mode: str) -> None:
    rng = np.random.default_rng(height)
    smooth = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    crops = np.stack([np.asarray(Image.fromarray(each).resize((width, height))) for each in smooth])
    crops[1] = rng.integers(0, 256, crops[1].shape)
    given = {"size": 32, "resize_mode": mode, "interpolation": "bicubic"}
    theirs = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**given), is_train=False
    )
    expected = torch.stack([theirs(Image.fromarray(each)) for each in crops])
    ours = preprocessing_of(32, given, "test")(torch.from_numpy(crops))
    assert ours.shape == (2, 3, 32, 32)
    levels = (ours - expected).abs() * torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None] * 255
    assert float(levels.max()) < 1.01
    assert float((levels > 0.01).float().mean()) < 0.05


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 40), (90, 20), (130, 140)])
def test_bytes_and_floats_are_resized_as_pil_does(size: tuple[int, int], interpolation: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 90, 70, 3), dtype=np.uint8)
    how = Image.Resampling[interpolation.upper()]
    expected = np.stack([np.asarray(Image.fromarray(each).resize(size[::-1], how)) for each in images])
    planes = torch.from_numpy(images).permute(0, 3, 1, 2)
    for function in (resize, resize_floats):
        found = function(planes, size, interpolation).permute(0, 2, 3, 1).int().numpy()
        assert int(np.abs(found - expected).max()) <= (2 if size[0] > 90 else 1)
        assert float((found != expected).mean()) < 0.02


def test_crops_of_another_type_are_refused() -> None:
    with pytest.raises(GlomflowError, match=r"\(N, H, W, 3\) uint8, not .* float32"):
        Preprocessing(32)(torch.zeros(1, 8, 8, 3))


def test_a_resnet_is_refused(tmp_path: Path) -> None:
    description = {**CLIP, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16}}
    with pytest.raises(GlomflowError, match=r"vlm\.backbones\.small\.architecture: .*ResNet.*ViT-B-16"):
        load(tmp_path, description)


def test_a_text_tower_of_transformers_is_refused() -> None:
    given = VlmBackbone(architecture="roberta-ViT-B-32", weights="random")
    with pytest.raises(GlomflowError, match="roberta-base of transformers"):
        load_backbone("small", given, offline=True)


def test_an_unknown_architecture_is_answered_with_near_names() -> None:
    given = VlmBackbone(architecture="ViT-B-61", weights="random")
    with pytest.raises(GlomflowError, match="did you mean one of ViT-B-16"):
        load_backbone("small", given, offline=True)


def test_offline_refuses_downloads_and_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    given = {"architecture": "ViT-B-16-quickgelu", "access": "The model is free."}
    for weights in ("pretrained:openai", "hub:owner/name"):
        section = VlmBackbone.model_validate(given | {"weights": weights})
        with pytest.raises(GlomflowError, match=r"run\.offline.*The model is free\."):
            load_backbone("small", section, offline=True)


def test_hub_repositories_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    section = VlmBackbone(weights="hub:owner/name", architecture="conch_ViT-B-16", access="Ask A. Owner.")
    for error, message in (
        (GatedRepoError.__new__(GatedRepoError), r"is gated; ask .* https://huggingface\.co/owner/name"),
        (LocalEntryNotFoundError("no network"), r"owner/name cannot be reached; try again"),
        (EntryNotFoundError("no file"), r"has none of pytorch_model\.bin"),
        (OSError("no route"), r"cannot be had \(no route\)"),
    ):

        def download(*_: object, error: Exception = error) -> str:
            raise error

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        with pytest.raises(GlomflowError, match=rf"backbones\.small\.weights: .*{message}.*Ask A\. Owner\."):
            load_backbone("small", section, offline=False)


def test_the_layout_of_a_hub_repository_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": CLIP, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "resize_mode": "squash"}})
    )
    model = build_model(CLIP)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda _, name: str(tmp_path / name))
    ours = load_backbone("small", VlmBackbone(weights="hub:owner/name"), offline=True)
    assert torch.equal(ours.vision.visual.proj, model.visual.proj)
    assert ours.preprocessing.mean == (0.1, 0.2, 0.3)
    assert ours.preprocessing.resize == "squash"


def test_an_unknown_tag_is_answered_with_those_there_are() -> None:
    given = VlmBackbone(architecture="ViT-B-16", weights="pretrained:nothing")
    with pytest.raises(GlomflowError, match=r"no weights 'nothing' of ViT-B-16; it has openai"):
        load_backbone("small", given, offline=True)


def test_weights_must_fit_name_for_name(tmp_path: Path) -> None:
    state = {name: value.contiguous() for name, value in build_model(CLIP).state_dict().items()}
    path = tmp_path / "w.safetensors"
    save_file({**state, "visual.extra": torch.zeros(1)}, path)
    with pytest.raises(GlomflowError, match=r"1 of its tensors \(first: visual\.extra is not the arch"):
        load(tmp_path, CLIP, weights=f"file:{path}")
    del state["visual.proj"]
    save_file(state, path)
    with pytest.raises(GlomflowError, match=r"visual\.proj is not there"):
        load(tmp_path, CLIP, weights=f"file:{path}")
    with pytest.raises(GlomflowError, match=r"in 30 of its.*is 24x32 instead of 24x64"):
        load(tmp_path, {**CLIP, "text_cfg": {**TEXT, "width": 64}}, weights=f"file:{path}")


def test_a_checkpoint_of_tensors_is_read_and_an_exchanged_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    model = build_model(CLIP)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}, "epoch": 3}, path)
    ours = load(tmp_path, CLIP, weights=f"file:{path}", sha256=sha256_file(path))
    assert torch.equal(ours.vision.visual.proj, model.visual.proj)
    with pytest.raises(GlomflowError, match=r"vlm\.backbones\.small\.sha256: .* not 0000"):
        load(tmp_path, CLIP, weights=f"file:{path}", sha256="0" * 64)


def test_a_pickle_is_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"model": build_model(CLIP)}, path)
    with pytest.raises(GlomflowError, match="cannot be read as safetensors or as a weights-only"):
        load(tmp_path, CLIP, weights=f"file:{path}")


def test_missing_weights_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(GlomflowError, match=r"there is no file /nowhere/w\.pt.*Ask the owner\."):
        load(tmp_path, CLIP, weights="file:/nowhere/w.pt", access="Ask the owner.")


def test_an_old_checkpoint_fits_a_model_with_its_own_text_tower(tmp_path: Path) -> None:
    old = build_model(CLIP)
    path = tmp_path / "w.safetensors"
    save_file({name: value.contiguous() for name, value in old.state_dict().items()}, path)
    ours = load(tmp_path, {**CLIP, "custom_text": True}, weights=f"file:{path}")
    tokens = ours.tokenise(TEXTS)
    torch.testing.assert_close(ours.text(tokens), old.encode_text(tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["clip", "siglip"])
def test_projections_are_those_of_the_attention(layout: str, tmp_path: Path) -> None:
    ours = load(tmp_path, LAYOUTS[layout])
    block = ours.vision.blocks[0]
    query, key, value, out = attention_projections(block)
    stacked = torch.cat([query.matrix, key.matrix, value.matrix])
    weight = block.attn.in_proj_weight if layout == "clip" else block.attn.qkv.weight
    assert torch.equal(stacked, weight)
    assert out.matrix.shape == (weight.shape[1], weight.shape[1])
    with pytest.raises(GlomflowError, match="no q, k and v"):
        attention_projections(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": "file:x"}, "architecture is needed"),
        ({"weights": "phantom", "architecture": "ViT-B-16"}, "take architecture out"),
        ({"weights": "somewhere"}, "not one of pretrained"),
        ({"library": "transformers", "weights": "random"}, "file:<folder>"),
        ({"library": "transformers", "weights": "file:x", "architecture": "y"}, "carry their own"),
    ],
)
def test_sections_that_do_not_fit_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VlmBackbone.model_validate(values)
