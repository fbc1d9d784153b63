"""Backbones of the Hugging Face CLIP format, as PLIP is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glomflow.config_vlm import VlmBackbone
from glomflow.errors import GlomflowError
from glomflow.models.torchvision_compat import import_torchvision
from glomflow.models.vlm.backbone import attention_projections, load_backbone

import_torchvision()
transformers = pytest.importorskip("transformers")

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
    "vocab_size": 49408,
}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
TEXTS = ["a glomerulus", "a pathology image of a globally sclerotic glomerulus, shrunken and solid"]


def write_model(folder: Path, end: int) -> None:
    """Writes a small CLIPModel with random weights and its tokeniser, in the hub's format."""
    from open_clip.tokenizer import SimpleTokenizer

    bpe = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): number for token, number in bpe.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in bpe.bpe_ranks)])
    (folder / "merges.txt").write_text(merges + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    config = transformers.CLIPConfig(
        text_config={**TEXT, "eos_token_id": end, "bos_token_id": 49406, "pad_token_id": 1},
        vision_config=VISION,
        projection_dim=16,
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD
    ).save_pretrained(folder)


@pytest.fixture(scope="module", params=[49407, 2])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    write_model(path, request.param)
    return path


def load(folder: Path, **values: object):
    given = {"library": "transformers", "weights": f"file:{folder}"} | values
    return load_backbone("plip", VlmBackbone.model_validate(given), offline=True)


def test_towers_are_the_librarys_own_encodings(folder: Path) -> None:
    theirs = transformers.CLIPModel.from_pretrained(folder).eval().double()
    ours = load(folder).double()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    tokens = ours.tokenise(TEXTS)
    with torch.no_grad():
        image = theirs.get_image_features(pixel_values=pixels).pooler_output
        text = theirs.get_text_features(input_ids=tokens).pooler_output
        torch.testing.assert_close(ours.vision(pixels), image, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.text(tokens), text, rtol=1e-9, atol=1e-9)
        hidden = ours.vision.run(ours.vision.run(ours.vision.stem(pixels), 0, 2), 2)
        torch.testing.assert_close(ours.vision.head(hidden, None), image, rtol=1e-9, atol=1e-9)
        hidden = ours.vision.run(ours.vision.stem(pixels), 0, 1)
        torch.testing.assert_close(ours.vision.tail(hidden, 1), image, rtol=1e-9, atol=1e-9)
        hidden = ours.text.run(ours.text.stem(tokens), 0, 1)
        torch.testing.assert_close(ours.text.tail(hidden, 1, tokens), text, rtol=1e-9, atol=1e-9)
        embeddings = ours.text.token_embeddings(tokens)
        torch.testing.assert_close(ours.text.from_embeddings(embeddings, tokens), text, rtol=1e-9, atol=1e-9)
    assert (ours.dim, ours.image_size, ours.context_length) == (16, 32, 24)
    assert float(ours.logit_scale) == pytest.approx(float(theirs.logit_scale.detach()))


def test_tokens_begin_and_end_as_clips_do(folder: Path) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    ours = load(folder).tokenise(TEXTS)
    theirs = SimpleTokenizer(context_length=24)(TEXTS)
    length = (theirs != 0).sum(dim=1)
    for row, count in enumerate(length.tolist()):
        assert torch.equal(ours[row, :count], theirs[row, :count])


def test_preprocessing_is_the_processors_own(folder: Path) -> None:
    processor = transformers.CLIPImageProcessor.from_pretrained(folder)
    crops = np.random.default_rng(0).integers(0, 256, (2, 70, 60, 3), dtype=np.uint8)
    expected = processor([Image.fromarray(each) for each in crops], return_tensors="pt")["pixel_values"]
    ours = load(folder).preprocess(torch.from_numpy(crops))
    levels = (ours - expected).abs() * torch.tensor(STD)[:, None, None] * 255
    assert float(levels.max()) < 2.01  # the processor rounds once more, or once less, than PIL does
    assert float(levels.mean()) < 0.3


def test_projections_are_separate(folder: Path) -> None:
    block = load(folder).text.blocks[0]
    query, key, value, out = attention_projections(block)
    assert query.matrix.data_ptr() == block.self_attn.q_proj.weight.data_ptr()
    assert key.module is block.self_attn.k_proj
    assert value.module is block.self_attn.v_proj
    assert out.module is block.self_attn.out_proj


def test_files_that_are_missing_or_of_another_model_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(GlomflowError, match=r"vlm\.backbones\.plip\.weights: there is no folder"):
        load(tmp_path / "nowhere")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(GlomflowError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        load(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
    with pytest.raises(GlomflowError, match="model of type 'siglip'"):
        load(tmp_path)
    config["vision_config"]["num_hidden_layers"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(GlomflowError, match=r"16 of its tensors \(first: vision_model\.encoder\.layers\.2\."):
        load(tmp_path)


def test_another_tokeniser_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(GlomflowError, match=r"vlm\.backbones\.plip\.tokenizer: .*run\.offline is true"):
        load(folder, tokenizer="owner/name")
