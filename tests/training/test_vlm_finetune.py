"""Fine-tuning from cached activations against plain training on pixels."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from glomflow.errors import DivergedError, GlomflowError
from glomflow.evaluation.metrics import macro_auc
from glomflow.models.vlm.losses import balanced_batches, contrastive_loss, shuffled_batches
from glomflow.models.vlm.methods.base import Rows, Shots
from glomflow.models.vlm.methods.registry import TUNED_METHODS, tuned_method
from glomflow.models.vlm.methods.tuned import TunedMethod, same_bits
from glomflow.models.vlm.prompts import Prompts, ensemble
from glomflow.training.vlm_cache import ActivationCache, module_digest
from glomflow.training.vlm_finetune import TunedRun, tune
from vlm_fake import CLASSES, PROMPTS, FakeBackbone, crops_of, make_shots

LABELS = torch.arange(48) % 3
CROPS = crops_of(LABELS).numpy()
SHOTS = make_shots(LABELS, [2, 4])
FAST = {"epochs": 3, "lr": 1e-2}


def method_of(
    name: str, preset: str = "default", recipe: dict | None = None, **changes: object
) -> TunedMethod:
    if name == "vanilla" and preset == "default":
        changes = {"vision_blocks": 1, "text_blocks": 2, **changes}
    own = tuned_method(name, preset).settings.recipe
    return tuned_method(name, preset, recipe=replace(own, **(FAST if recipe is None else recipe)), **changes)


def activations(backbone: FakeBackbone, method: TunedMethod) -> np.ndarray:
    cut, cache = method.cut(backbone), ActivationCache(None)
    if cut.vision is None:
        return cache.features(backbone, CROPS).numpy()
    return cache.hidden(backbone, CROPS, cut.vision)


def tuned(method: TunedMethod, shots: Shots = SHOTS, selection: str = "fixed") -> list[TunedRun]:
    backbone = FakeBackbone()
    return list(tune(method, backbone, activations(backbone, method), shots, PROMPTS, selection=selection))


def probabilities(run: TunedRun) -> torch.Tensor:
    logits, _, _ = run.predict(activations(run.backbone, run.method))
    return logits.softmax(dim=1)


def plain(shots: Shots, epochs: int, lr: float, loss: str, balanced: bool) -> torch.Tensor:
    """Vanilla fine-tuning as a plain loop: pixels through whole towers in every step, one run."""
    backbone = copy.deepcopy(FakeBackbone())
    trained = [*backbone.vision.blocks[-1].parameters(), *backbone.text.blocks[-2].parameters()]
    trained += [*backbone.text.blocks[-1].parameters(), backbone.logit_scale]
    for value in trained:
        value.requires_grad_(True)
    optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=0.01)
    rows, labels = shots.train.rows[0], shots.train.labels[0]
    pixels = backbone.preprocess(torch.from_numpy(CROPS))
    tokens = backbone.tokenise(PROMPTS.texts)
    for epoch in range(epochs):
        for group in optimiser.param_groups:
            group["lr"] = lr * (0.01 + 0.99 * (1 + np.cos(np.pi * epoch / epochs)) / 2)
        keys = {"seed": shots.seeds[0], "epoch": epoch}
        batches = balanced_batches(labels, 5, **keys) if balanced else shuffled_batches(len(rows), 5, **keys)
        for batch in batches:
            optimiser.zero_grad()
            images = backbone.image_features(pixels[rows[batch]])
            classes = ensemble(backbone.text_features(tokens), PROMPTS.owners, 3)
            scale = backbone.logit_scale.exp()
            contrastive_loss(images, classes[labels[batch]], labels[batch], scale, loss).backward()
            optimiser.step()
    with torch.no_grad():
        classes = ensemble(backbone.text_features(tokens), PROMPTS.owners, 3)
        return (backbone.logit_scale.exp() * backbone.image_features(pixels) @ classes.T).softmax(dim=1)


@pytest.mark.parametrize(("loss", "balanced"), [("arange", False), ("supervised_contrastive", True)])
def test_vanilla_is_plain_training_on_pixels(loss: str, balanced: bool) -> None:
    method = method_of("vanilla", recipe={"epochs": 4, "lr": 1e-3, "balanced": balanced}, loss=loss)
    found = tuned(method, SHOTS.take([1]))[0]
    expected = plain(SHOTS.take([1]), 4, 1e-3, loss, balanced)
    start = probabilities(replace(found, state={}))
    assert float((probabilities(found) - expected).abs().max()) < 1e-5
    assert float((start - expected).abs().max()) > 0.01


@pytest.mark.parametrize("name", ["vanilla", "adapter", "lora"])
def test_cached_below_the_cut_equals_uncached(name: str) -> None:
    changes = {"blocks": (2,)} if name == "adapter" else {}
    method = method_of(name, **changes)
    whole = method_of(name, **changes)
    whole.attached, whole.training = method.attached, method.training
    whole.cut = lambda backbone: replace(method.cut(backbone), vision=0)
    one, two = (tuned(each, SHOTS.take([1]))[0] for each in (method, whole))
    assert method.cut(one.backbone).vision == 2
    assert float((probabilities(one) - probabilities(two)).abs().max()) < 1e-6


@pytest.mark.parametrize("name", TUNED_METHODS)
def test_backbone_is_put_back_to_the_bit(name: str) -> None:
    backbone = FakeBackbone()
    before, method = module_digest(backbone), method_of(name)
    hidden = activations(backbone, method)
    for run in tune(method, backbone, hidden, SHOTS, PROMPTS):
        assert module_digest(backbone) == before
        run.predict(hidden)
        assert module_digest(backbone) == before
    assert not any(value.requires_grad for value in backbone.parameters())
    assert not any(block._forward_hooks for block in backbone.vision.blocks)


def test_backbone_is_put_back_after_a_failure() -> None:
    backbone = FakeBackbone()
    before = module_digest(backbone)
    method = method_of("vanilla", recipe={"epochs": 5, "lr": 1e30})
    with pytest.raises(DivergedError, match=r"vanilla, run 0, .*learning rate \(1e\+30\)"):
        list(tune(method, backbone, activations(backbone, method), SHOTS, PROMPTS))
    assert module_digest(backbone) == before


@pytest.mark.parametrize("name", TUNED_METHODS)
def test_runs_do_not_depend_on_each_other(name: str) -> None:
    changes = {"dropout": 0.2} if name != "vanilla" else {}
    together = tuned(method_of(name, **changes))
    for run in range(2):
        alone = tuned(method_of(name, **changes), SHOTS.take([run]))[0]
        assert all(same_bits(value, together[run].state[key]) for key, value in alone.state.items())


@pytest.mark.parametrize("name", ["vanilla", "adapter"])
@pytest.mark.parametrize("loss", ["arange", "supervised_contrastive", "cross_entropy"])
def test_fine_tuning_helps(name: str, loss: str) -> None:
    backbone = FakeBackbone()
    method = method_of(name, recipe={"epochs": 30, "lr": 5e-3}, loss=loss)
    hidden = activations(backbone, method)
    run = next(tune(method, backbone, hidden, make_shots(LABELS, [8]), PROMPTS))
    before = replace(run, state={}).predict(hidden)[0] if name == "vanilla" else None
    after = (run.predict(hidden)[0].argmax(dim=1) == LABELS).double().mean()
    assert float(after) > 0.8
    assert before is None or float((before.argmax(dim=1) == LABELS).double().mean()) < 0.6


@pytest.mark.parametrize("name", ["adapter", "lora", "clip_lora"])
def test_added_layers_start_as_the_frozen_model(name: str) -> None:
    changes = {"text_blocks": ()} if "lora" in name else {}
    run = tuned(method_of(name, **changes), SHOTS.take([0]))[0]
    hidden = activations(run.backbone, run.method)
    zero = {name: torch.zeros_like(value) for name, value in run.state.items()}
    _, features, classes = replace(run, state=zero).predict(hidden)
    pixels = run.backbone.preprocess(torch.from_numpy(CROPS))
    assert torch.allclose(features, run.backbone.image_features(pixels), atol=1e-6)
    assert torch.allclose(run.predict(hidden)[2], classes)
    assert not torch.allclose(run.predict(hidden)[1], features, atol=1e-3)


def test_only_what_is_above_the_cut_is_run() -> None:
    backbone, method = FakeBackbone(), method_of("vanilla", text_blocks=1)
    hidden = activations(backbone, method)
    runs = tune(method, backbone, hidden, SHOTS.take([0]), PROMPTS)
    backbone.vision.calls = 0
    next(runs)
    assert backbone.vision.calls == 3  # one block, one batch (five and the one left over), three epochs


@pytest.mark.parametrize("name", ["vanilla", "lora"])
def test_early_stopping_keeps_the_best(name: str) -> None:
    recipe = {"epochs": 30, "lr": 1e-2, "patience": 3, "schedule": "constant"}
    for run, own in enumerate(tuned(method_of(name, recipe=recipe), selection="validation")):
        assert 0 < own.epochs < 30
        rows = SHOTS.validation.take(slice(run, run + 1))
        held = rows.rows[rows.mask].numpy()
        logits, _, _ = own.predict(activations(own.backbone, own.method), held)
        area = macro_auc(LABELS[held].numpy(), logits.double().softmax(dim=1).numpy())
        assert own.score == pytest.approx(float(area))
        shorter = method_of(name, recipe={**recipe, "epochs": own.epochs})
        again = tuned(shorter, SHOTS.take([run]))[0]
        assert all(same_bits(value, again.state[key]) for key, value in own.state.items())


@pytest.mark.parametrize("name", TUNED_METHODS)
def test_bfloat16_is_near(name: str) -> None:
    backbone, method = FakeBackbone(), method_of(name, recipe={"epochs": 2, "lr": 1e-3})
    hidden = activations(backbone, method)
    found = []
    for precision in ("float32", "bfloat16"):
        run = next(tune(method, backbone, hidden, SHOTS.take([1]), PROMPTS, precision=precision))
        assert all(value.dtype == torch.float32 for value in run.state.values())
        found.append(run.predict(hidden)[0].softmax(dim=1))
    assert 0 < float((found[0] - found[1]).abs().max()) < 0.1


def test_fixed_recipe_does_not_look_at_validation() -> None:
    shuffled = replace(SHOTS.validation, labels=(SHOTS.validation.labels + 1) % 3)
    one, two = (tuned(method_of("vanilla"), s) for s in (SHOTS, replace(SHOTS, validation=shuffled)))
    assert all(same_bits(value, two[1].state[name]) for name, value in one[1].state.items())
    with pytest.raises(GlomflowError, match="there are no validation images"):
        tuned(method_of("vanilla"), replace(SHOTS, validation=None), "validation")


def test_lora_learns() -> None:
    backbone = FakeBackbone()
    recipe = {"epochs": 40, "lr": 2e-2, "batch_size": 8}
    method = method_of("clip_lora", recipe=recipe, dropout=0.0, rank=4, alpha=8.0)
    hidden = activations(backbone, method)
    run = next(tune(method, backbone, hidden, make_shots(LABELS, [8]), PROMPTS))
    assert float((run.predict(hidden)[0].argmax(dim=1) == LABELS).double().mean()) > 0.6


def test_sampled_prompts() -> None:
    one, two = (
        tuned(method_of("vanilla", texts=texts), SHOTS.take([1]))[0] for texts in ("ensemble", "sampled")
    )
    assert not torch.allclose(probabilities(one), probabilities(two), atol=1e-4)


def test_steps_per_shot() -> None:
    method = method_of("vanilla", steps_per_shot=5)
    run = tuned(method, SHOTS.take([1]))[0]  # 12 images in batches of 5, 5 and 2
    assert run.epochs == -(-5 * 4 // 3)


def test_edges() -> None:
    rows = [0, 1, 2, 3, 4]  # class 2 has one shot, the others two
    shots = Shots(CLASSES, Rows.of([rows], [LABELS[rows].tolist()]), None, ("run 0, 2 shots",), (1,))
    for name in TUNED_METHODS:
        assert torch.isfinite(probabilities(tuned(method_of(name), shots)[0])).all()
        if name == "clip_lora":
            continue
        with pytest.raises(GlomflowError, match=f"{name}: batch_size is 1"):
            tuned(method_of(name, recipe={"batch_size": 1}), shots)
        single = method_of(name, recipe={"batch_size": 1, "epochs": 1}, loss="cross_entropy")
        assert torch.isfinite(probabilities(tuned(single, shots)[0])).all()
        one = Shots(CLASSES, Rows.of([[0, 1, 2]], [[0, 1, 2]]), None, ("run 0, 1 shot",), (1,))
        assert torch.isfinite(probabilities(tuned(method_of(name), one)[0])).all()
    absent = Shots(CLASSES, Rows.of([[0, 1]], [[0, 1]]), None, ("run 0, 1 shot",), (1,))
    with pytest.raises(GlomflowError, match="run 0, 1 shot: class 'ischaemic' has no shot"):
        tuned(method_of("vanilla"), absent)


def test_class_missing_from_validation_is_said() -> None:
    held = Rows.of([[0, 1, 3, 4]], [[0, 1, 0, 1]])
    run = tuned(method_of("vanilla"), replace(SHOTS.take([0]), validation=held), "validation")[0]
    assert "no validation image of ischaemic" in run.remarks[0]
    assert np.isfinite(run.score)


def test_unusable_settings() -> None:
    with pytest.raises(GlomflowError, match="vision_blocks is 9, and the tower has 3 blocks"):
        tuned(method_of("vanilla", vision_blocks=9))
    with pytest.raises(GlomflowError, match="blocks names block 7, and the tower has blocks 0 to 2"):
        tuned(method_of("adapter", blocks=(7,)))
    other = Prompts(("a", "b", "c"), ("A", "B", "C"), (("a",), ("b",), ("c",)))
    method, backbone = method_of("vanilla"), FakeBackbone()
    with pytest.raises(GlomflowError, match="prompts are for a, b, c, shots for viable"):
        list(tune(method, backbone, activations(backbone, method), SHOTS, other))


def test_text_tower_alone() -> None:
    run = tuned(method_of("vanilla", vision_blocks=0), SHOTS.take([1]))[0]
    assert run.cut.vision is None
    assert torch.isfinite(probabilities(run)).all()
    assert not any(name.startswith("vision") for name in run.state)


def test_published_settings() -> None:
    clip, conch = (tuned_method("vanilla", name).settings for name in ("clip", "conch"))
    assert (clip.vision_blocks, clip.text_blocks, clip.loss, clip.logit_scale) == (4, 2, "arange", True)
    recipe = clip.recipe
    assert (recipe.lr, recipe.weight_decay, recipe.batch_size, recipe.floor) == (1e-4, 0.01, 5, 0.01)
    assert (recipe.balanced, recipe.schedule, recipe.epochs) == (False, "cosine", 20)
    assert (conch.vision_blocks, conch.recipe.lr, conch.recipe.epochs) == (2, 2e-5, 3)
    assert conch.recipe.balanced
    adapter = tuned_method("adapter", "conch").settings
    assert (adapter.blocks, adapter.dropout, adapter.recipe.lr) == ((6, 7, 8, 9, 10, 11), 0.1, 1e-4)
    assert tuned_method("adapter", "plip").settings.blocks is None
    lora = tuned_method("lora", "clip").settings
    assert (lora.rank, lora.alpha, lora.dropout, lora.recipe.lr) == (4, 16.0, 0.1, 2e-5)
    assert (lora.targets, lora.vision_blocks, lora.text_blocks) == (("q", "v"), (11,), (11,))
    lora = tuned_method("lora", "conch").settings
    assert (lora.targets, lora.vision_blocks, lora.text_blocks) == (("q", "k", "v", "out"), (10, 11), ())
    lora = tuned_method("clip_lora", "published").settings
    assert (lora.rank, lora.alpha, lora.dropout, lora.recipe.lr) == (2, 1.0, 0.25, 2e-4)
    assert (lora.targets, lora.vision_blocks, lora.recipe.weight_decay) == (("q", "k", "v"), None, 1e-2)
    assert (lora.loss, lora.recipe.batch_size, lora.steps_per_shot) == ("cross_entropy", 32, 500)


def test_trained_text_moves_and_frozen_text_does_not() -> None:
    backbone = FakeBackbone()
    frozen = ensemble(backbone.text_features(backbone.tokenise(PROMPTS.texts)), PROMPTS.owners, 3)
    for name, moves in (("vanilla", True), ("adapter", False), ("lora", True), ("clip_lora", True)):
        run = tuned(method_of(name), SHOTS.take([1]))[0]
        classes = run.predict(activations(run.backbone, run.method))[2]
        assert (not torch.allclose(classes, frozen, atol=1e-5)) is moves
        assert torch.allclose(functional.normalize(classes, dim=1), classes, atol=1e-6)
