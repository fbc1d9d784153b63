"""Pretraining on captioned phantom glomeruli."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from glomflow.cohort.phantom.captioned import DOMAIN, CaptionedCrops, draw_captioned, patient_seed
from glomflow.cohort.phantom.captions import LESIONS, caption_for
from glomflow.config_vlm import VlmBackbone, VlmPretraining
from glomflow.errors import DivergedError
from glomflow.files import read_json
from glomflow.models.vlm.backbone import load_backbone
from glomflow.training import vlm_pretrain
from glomflow.training.vlm_pretrain import (
    PretrainFiles,
    augment,
    drop_words,
    pretrain,
    supervised_contrastive,
)

SMALL = VlmPretraining(
    patients=1,
    held_out_patients=1,
    glomeruli=5,
    image_size=32,
    patch_size=8,
    width=64,
    layers=2,
    text_width=64,
    embedding=32,
    epochs=2,
    batch_size=5,
)


def files_in(folder: Path) -> PretrainFiles:
    folder.mkdir(parents=True, exist_ok=True)
    return PretrainFiles(
        folder / "open_clip_model.safetensors", folder / "open_clip_config.json", folder / "report.json"
    )


def shades(settings: VlmPretraining, part: str, threads: int) -> CaptionedCrops:
    """Stands in for the drawing: the lesion is the shade of the image."""
    count = 240 if part == "training" else 100
    rng = np.random.default_rng(count)
    lesions = np.arange(count) % len(LESIONS)
    size = settings.image_size
    noise = rng.integers(0, 30, (count, size, size, 3))
    images = (noise + (45 * lesions)[:, None, None, None]).astype(np.uint8)
    captions = tuple(caption_for(LESIONS[k], rng) for k in lesions)
    return CaptionedCrops(images, lesions, captions, np.arange(count) // 5, np.arange(count) % 3)


@pytest.fixture(scope="module")
def drawn() -> CaptionedCrops:
    return draw_captioned(0, "training", patients=2, glomeruli=7, size=32, jitter=0.1, threads=2)


def test_crops_are_balanced_captioned_and_the_same_on_any_threads(drawn: CaptionedCrops) -> None:
    again = draw_captioned(0, "training", patients=2, glomeruli=7, size=32, jitter=0.1)
    assert np.array_equal(drawn.images, again.images)
    assert drawn.captions == again.captions
    assert drawn.images.shape == (14, 32, 32, 3)
    assert np.bincount(drawn.lesions, minlength=5).tolist() == [3, 3, 3, 3, 2]
    assert drawn.patients.tolist() == [0] * 7 + [1] * 7
    assert drawn.sites.tolist() == [0] * 7 + [1] * 7
    rng = np.random.default_rng(0)
    said = {name: {caption_for(name, rng) for _ in range(300)} for name in LESIONS}
    for lesion, caption in zip(drawn.lesions, drawn.captions, strict=True):
        assert caption in said[LESIONS[lesion]]


def test_a_solid_tuft_is_redder_than_an_open_one(drawn: CaptionedCrops) -> None:
    middle = drawn.images[:, 10:22, 10:22].astype(float)
    green = middle[..., 1].mean(axis=(1, 2))
    for patient in (0, 1):
        own = drawn.patients == patient
        solid = green[own & (drawn.lesions == LESIONS.index("globally_sclerotic"))].max()
        assert solid < green[own & (drawn.lesions == LESIONS.index("normal"))].min()


def test_held_out_patients_are_others(drawn: CaptionedCrops) -> None:
    other = draw_captioned(0, "held_out", patients=1, glomeruli=7, size=32)
    gaps = np.abs(drawn.images[:, None].astype(float) - other.images[None]).mean(axis=(2, 3, 4))
    assert float(gaps.min()) > 5.0


def test_no_seed_is_one_of_a_cohort() -> None:
    assert DOMAIN > 2**64
    seeds, numbers = (0, 7, 2026, 2**32 - 1), range(30)
    cohort = [[seed, number, what] for seed, number, what in itertools.product(seeds, numbers, (11, 12, 13))]
    cohort += [[seed, 2, number] for seed, number in itertools.product(seeds, numbers)]
    ours = [
        patient_seed(seed, part, number, what)
        for seed, part, number, what in itertools.product(seeds, ("training", "held_out"), numbers, (1, 2, 3))
    ]
    theirs, own = (
        {tuple(np.random.SeedSequence(words).generate_state(4)) for words in part} for part in (cohort, ours)
    )
    assert not theirs & own
    assert len(own) == len(ours)


def test_the_loss_is_clips_where_no_lesion_is_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (functional.normalize(torch.randn(4, 8, generator=generator), dim=1) for _ in range(2))
    scale = torch.tensor(3.0)
    logits, places = 3.0 * images @ texts.T, torch.arange(4)
    clip = (functional.cross_entropy(logits, places) + functional.cross_entropy(logits.T, places)) / 2
    torch.testing.assert_close(supervised_contrastive(images, texts, places, scale), clip)


def test_captions_of_one_lesion_are_positives_of_each_other() -> None:
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1])
    loss = supervised_contrastive(images, images, labels, torch.tensor(100.0))
    assert float(loss) == pytest.approx(2 / 3 * math.log(2.0), abs=1e-6)  # the least there can be
    apart = supervised_contrastive(images, images, torch.arange(3), torch.tensor(100.0))
    turned = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert float(supervised_contrastive(images, turned, labels, torch.tensor(100.0))) > 10.0
    assert float(apart) == pytest.approx(float(loss), abs=1e-6)


def test_images_are_turned_and_mirrored_one_by_one() -> None:
    image = np.random.default_rng(0).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    ways = {np.rot90(part, k).tobytes() for part in (image, image[:, ::-1]) for k in range(4)}
    batch = torch.from_numpy(image)[None].repeat(200, 1, 1, 1)
    changed = augment(batch, torch.Generator().manual_seed(0), 0.0)
    assert {each.numpy().tobytes() for each in changed} == ways
    stained = augment(batch, torch.Generator().manual_seed(0), 1.0)
    assert stained.dtype == torch.uint8
    assert len({each.numpy().tobytes() for each in stained}) == 200


def test_words_are_left_out_but_never_all() -> None:
    caption = "a tuft that fills its capsule"
    rng = np.random.default_rng(0)
    assert drop_words(caption, rng, 0.0) == caption
    lengths = [len(drop_words(caption, rng, 0.5).split()) for _ in range(500)]
    assert min(lengths) >= 1
    assert np.mean(lengths) == pytest.approx(6 * (0.5 + 0.5 / 6), abs=0.15)
    assert len(drop_words(caption, rng, 0.999).split()) == 1


def test_the_same_seed_gives_the_same_bits_and_loads(tmp_path: Path) -> None:
    first, second = files_in(tmp_path / "a"), files_in(tmp_path / "b")
    report = pretrain(SMALL, first)
    pretrain(SMALL, second)
    for one, other in zip(vars(first).values(), vars(second).values(), strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert read_json(first.report) == report
    found = report["zero_shot"]
    assert found["glomeruli"] == 5
    assert found["interval"][0] <= found["balanced_accuracy"] <= found["interval"][1]
    backbone = load_backbone("phantom", VlmBackbone(), offline=True, phantom=tmp_path / "a")
    assert (backbone.image_size, backbone.dim, backbone.context_length) == (32, 32, 32)

    import open_clip

    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'a'}").eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(backbone.vision(pixels), theirs.encode_image(pixels), rtol=1e-5, atol=1e-5)
    assert theirs.visual.preprocess_cfg["mean"] == list(backbone.preprocessing.mean)


def test_it_learns_what_prompts_of_other_words_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlm_pretrain, "_drawn", shades)
    settings = SMALL.model_copy(update={"epochs": 4, "stain": 0.0, "batch_size": 30, "patients": 60})
    report = pretrain(settings, files_in(tmp_path))
    assert report["loss"][-1] < report["loss"][0]
    found = report["zero_shot"]
    assert found["balanced_accuracy"] >= 0.8
    assert found["balanced_accuracy"] == pytest.approx(np.mean(list(found["recall"].values())))


def test_a_loss_that_is_not_finite_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlm_pretrain, "_drawn", shades)
    settings = SMALL.model_copy(update={"learning_rate": 1e6, "batch_size": 50, "stain": 0.0})
    with pytest.raises(DivergedError, match=r"lower vlm\.pretraining\.learning_rate"):
        pretrain(settings, files_in(tmp_path))
