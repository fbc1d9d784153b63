"""Weights as pathology encoders are published: options, other names, gated repositories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.encoders import Encoder, build_encoder
from glomflow.models.torchvision_compat import import_timm

NAME = "vit_tiny_patch16_224"
OPTIONS: dict[str, Any] = {"img_size": 32, "init_values": 1e-5, "num_classes": 0}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def whole(**options: Any) -> Any:
    torch.manual_seed(6)
    return import_timm().create_model(NAME, **(OPTIONS | options)).eval()


def encoder_of(path: Path, state: dict[str, Tensor], **options: Any) -> Encoder:
    save_file({name: value.contiguous() for name, value in state.items()}, path / "w.safetensors")
    return build_encoder(
        config.Encoder(name=NAME, weights=f"file:{path / 'w.safetensors'}", options=OPTIONS | options)
    )


def check(encoder: Encoder, model: Any) -> None:
    with torch.no_grad():
        tokens = model.forward_features(IMAGES)[:, model.num_prefix_tokens :]
        torch.testing.assert_close(encoder(IMAGES), tokens.reshape(2, 2, 2, -1), rtol=1e-4, atol=1e-5)


def test_options_as_on_the_page_of_a_pathology_encoder(tmp_path: Path) -> None:
    layers = import_timm().layers
    model = whole(mlp_layer=layers.SwiGLUPacked, act_layer=torch.nn.SiLU, reg_tokens=4, mlp_ratio=5.3375)
    options = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu", "reg_tokens": 4, "mlp_ratio": 5.3375}
    check(encoder_of(tmp_path, model.state_dict(), **options), model)


def test_a_vision_tower_within_a_larger_checkpoint(tmp_path: Path) -> None:
    model = whole()
    state = {f"visual.trunk.{name}": value for name, value in model.state_dict().items()}
    check(encoder_of(tmp_path, {**state, "text.cls_emb": torch.zeros(3)}), model)


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_names_of_the_library_transformers(tmp_path: Path, kind: str) -> None:
    model = whole(init_values=None if kind == "vit" else 1e-5)
    state = transformers_names(model.state_dict(), kind)
    options = {} if kind == "dinov2" else {"init_values": 0}
    if kind == "vit":
        model = whole(init_values=0)
    check(encoder_of(tmp_path, state, **options), model)


def transformers_names(state: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    fixed = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    within = {
        "vit": {
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
            "attn.proj": "attention.output.dense",
            "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
        },
        "dinov2": {"norm1": "norm1", "norm2": "norm2", "attn.proj": "attention.output.dense"}
        | {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "ls1": "layer_scale1", "ls2": "layer_scale2"},
    }[kind]
    renamed = {}
    for name, value in state.items():
        if name in fixed:
            renamed[fixed[name]] = value
            continue
        _, block, rest = name.split(".", 2)
        layer, _, leaf = rest.rpartition(".")
        start = f"encoder.layer.{block}"
        if layer == "attn.qkv":
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[f"{start}.attention.attention.{part}.{leaf}"] = third
        else:
            renamed[f"{start}.{within[layer]}.{'lambda1' if leaf == 'gamma' else leaf}"] = value
    return renamed


def test_another_architecture_is_told_by_its_shapes(tmp_path: Path) -> None:
    with pytest.raises(
        GlomflowError,
        match=r"first: model.pos_embed is 1x5x192 instead of 1x197x192\).* goes into encoder.options",
    ):
        encoder_of(tmp_path, whole().state_dict(), img_size=224)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"img_sise": 224},
            r"encoder.options: timm cannot build 'vit_tiny_patch16_224' with img_sise \(.*img_sise",
        ),
        ({"mlp_layer": "Swish"}, r"encoder.options.mlp_layer: 'Swish' is not one of .*SwiGLUPacked"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GlomflowError, match=message):
        build_encoder(config.Encoder(name=NAME, weights="random", options=options))


def test_a_hub_name_is_no_architecture() -> None:
    with pytest.raises(
        GlomflowError,
        match=r"encoder.name: 'hf-hub:MahmoodLab/UNI' is where weights are; .*'hub:MahmoodLab/UNI' or 'file:",
    ):
        build_encoder(config.Encoder(name="hf-hub:MahmoodLab/UNI"))


def hub_encoder(repository: str, *, offline: bool) -> Encoder:
    settings = config.Encoder(name=NAME, weights=f"hub:{repository}", options=OPTIONS)
    return build_encoder(settings, offline=offline)


def test_a_hub_repository_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    model = whole()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")

    def lookup(repository: str, file: str) -> str | None:
        assert repository == "MahmoodLab/UNI"
        return str(tmp_path / file) if (tmp_path / file).is_file() else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lookup)
    check(hub_encoder("MahmoodLab/UNI", offline=True), model)


def test_hub_repositories_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(GlomflowError, match=r"paige-ai/Virchow is not in the hub's cache and run.offline is"):
        hub_encoder("paige-ai/Virchow", offline=True)
    with pytest.raises(GlomflowError, match="'hub:Virchow' names no repository; write hub:<owner>/<name>"):
        hub_encoder("Virchow", offline=True)

    def failing(error: Exception) -> None:
        def download(*_: object) -> str:
            raise error

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)

    failing(GatedRepoError.__new__(GatedRepoError))
    message = (
        r"paige-ai/Virchow is gated: .* Ask for it at https://huggingface.co/paige-ai/Virchow, then log in .*"
        "or download the weights from there and set encoder.weights to 'file:<path>'"
    )
    with pytest.raises(GlomflowError, match=message):
        hub_encoder("paige-ai/Virchow", offline=False)
    failing(OSError("no route to host"))
    with pytest.raises(GlomflowError, match=r"paige-ai/Virchow cannot be had \(no route to host\)"):
        hub_encoder("paige-ai/Virchow", offline=False)
    failing(EntryNotFoundError("no such file"))
    with pytest.raises(GlomflowError, match=r"has neither model.safetensors nor pytorch_model.bin"):
        hub_encoder("paige-ai/Virchow", offline=False)
