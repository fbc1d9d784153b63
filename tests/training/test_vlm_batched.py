"""All runs trained as one problem: equal to single runs, deterministic, blind to all but their rows."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from glomflow.errors import DivergedError, GlomflowError
from glomflow.evaluation import metrics
from glomflow.models.vlm.losses import shuffled_batches
from glomflow.models.vlm.methods.base import ClassText, Recipe, Rows, Shots, class_text
from glomflow.models.vlm.methods.registry import FEATURE_METHODS, feature_method
from glomflow.training.vlm_batched import Fitted, Selection, fit
from glomflow.training.vlm_optimiser import Optimiser, learning_rate
from glomflow.training.vlm_selection import EarlyStopping, masked_macro_auc
from vlm_fake import CLASSES, PROMPTS, FakeBackbone, clusters, make_shots

TABLE, LABELS = clusters(90)
TEXT = class_text(PROMPTS, FakeBackbone())
SHOTS = make_shots(LABELS, [2, 4, 1, 8, 4, 1])
SHORT = {"clap": 60, "clip_adapter": 20, "coop": 6}  # epochs; others as they are


def method_of(name: str, **changes: object):
    method = feature_method(name)
    if name in SHORT:
        changes.setdefault("recipe", replace(method.settings.recipe, epochs=SHORT[name]))
    return feature_method(name, **changes)


def fitted(name: str, shots: Shots = SHOTS, selection: Selection = "fixed", **changes: object) -> Fitted:
    return fit(method_of(name, **changes), TABLE, shots, TEXT, selection=selection)


def accuracy(found: Fitted) -> np.ndarray:
    return (found.logits(TABLE).argmax(dim=-1) == LABELS).double().mean(dim=1).numpy()


@pytest.mark.parametrize("selection", ["fixed", "validation"])
@pytest.mark.parametrize("name", FEATURE_METHODS)
def test_batched_equals_single_runs(name: str, selection: Selection) -> None:
    together = fitted(name, selection=selection)
    logits = together.logits(TABLE).softmax(dim=-1)
    for run in range(SHOTS.runs):
        alone = fitted(name, SHOTS.take([run]), selection)
        assert float((alone.logits(TABLE)[0].softmax(dim=-1) - logits[run]).abs().max()) < 1e-6
        assert alone.epochs[0] == together.epochs[run]
        assert alone.scores[0] == pytest.approx(together.scores[run], abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", [name for name in FEATURE_METHODS if name not in ("zero_shot", "coop")])
def test_shots_help(name: str) -> None:
    axes = torch.eye(12, dtype=torch.float64)
    blurred = nn.functional.normalize(axes[:3] + 0.9 * axes[[1, 2, 0]], dim=1)
    shots, text = make_shots(LABELS, [8, 8, 8]), ClassText(blurred, 20.0)
    before = accuracy(fit(feature_method("zero_shot"), TABLE, shots, text)).mean()
    changes = {"alpha": 10.0} if name.startswith("tip") else {}
    if name == "clip_adapter":
        changes = {"ratio": 0.5, "recipe": Recipe(epochs=100, batch_size=8, lr=1e-2)}
    after = accuracy(fit(feature_method(name, **changes), TABLE, shots, text)).mean()
    assert after > before + 0.1


def test_learned_prompts_help() -> None:
    shots = make_shots(LABELS, [8, 8])
    recipe = replace(feature_method("coop").settings.recipe, epochs=30, lr=0.1)
    before = accuracy(fitted("zero_shot", shots)).mean()
    assert accuracy(fitted("coop", shots, recipe=recipe)).mean() > before + 0.05


@pytest.mark.parametrize("selection", ["fixed", "validation"])
@pytest.mark.parametrize("name", ["linear_probe", "classifier", "tip_adapter", "tip_adapter_f"])
def test_reads_no_row_but_its_own(name: str, selection: Selection) -> None:
    own = set(SHOTS.train.rows[SHOTS.train.mask].tolist())
    if selection == "validation":
        own |= set(SHOTS.validation.rows[SHOTS.validation.mask].tolist())
    poisoned = TABLE.clone()
    poisoned[[row for row in range(len(TABLE)) if row not in own and row > 0]] = torch.nan
    found = fit(method_of(name), poisoned, SHOTS, TEXT, selection=selection)
    assert torch.equal(found.logits(TABLE), fitted(name, selection=selection).logits(TABLE))


@pytest.mark.parametrize("name", ["classifier", "linear_probe"])
def test_fixed_recipe_does_not_look_at_validation(name: str) -> None:
    shuffled = replace(SHOTS.validation, labels=(SHOTS.validation.labels + 1) % 3)
    other = fitted(name, replace(SHOTS, validation=shuffled)).logits(TABLE)
    assert torch.equal(fitted(name).logits(TABLE), other)
    assert torch.equal(fitted(name, replace(SHOTS, validation=None)).logits(TABLE), other)


def test_validation_is_asked_for_and_missing() -> None:
    with pytest.raises(GlomflowError, match="selection is 'validation', and there are no validation images"):
        fitted("classifier", replace(SHOTS, validation=None), "validation")


def test_runs_differ_by_seed_and_not_by_company() -> None:
    again = replace(SHOTS, seeds=(5, *SHOTS.seeds[1:]))
    one, two = fitted("classifier").logits(TABLE), fitted("classifier", again).logits(TABLE)
    assert not torch.allclose(one[0], two[0])
    assert torch.allclose(one[1:], two[1:], atol=1e-9)


def test_classifier_is_the_network_of_torch() -> None:
    recipe = Recipe(epochs=4, batch_size=5, lr=1e-2, weight_decay=1e-2)
    shots = make_shots(LABELS, [4], validation=False)
    method = feature_method("classifier", hidden=16, dropout=0.0, recipe=recipe)
    found = fit(method, TABLE, shots, TEXT)
    start = method.start(type("P", (), {"shots": shots, "table": TABLE}))
    net = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).double()
    with torch.no_grad():
        for layer, letter in ((net[0], "1"), (net[3], "2")):
            layer.weight.copy_(start.trained[f"w{letter}"][0])
            layer.bias.copy_(start.trained[f"b{letter}"][0])
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=1e-2)
    rows, labels = shots.train.rows[0], shots.train.labels[0]
    for epoch in range(4):
        for batch in shuffled_batches(12, 5, seed=shots.seeds[0], epoch=epoch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(TABLE[rows[batch]]), labels[batch]).backward()
            optimiser.step()
    net.eval()
    assert torch.allclose(found.logits(TABLE)[0], net(TABLE), atol=1e-9)


@pytest.mark.parametrize(
    ("recipe", "reference"),
    [
        (Recipe(lr=0.1, weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1)),
        (
            Recipe(optimiser="sgd", lr=0.1, weight_decay=0.1),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        ),
    ],
    ids=["adamw", "sgd"],
)
def test_optimiser_is_that_of_torch(recipe: Recipe, reference) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    slopes = torch.randn(6, 2, 3, generator=generator, dtype=torch.float64)
    ours = {"w": start.clone()}
    optimiser = Optimiser(recipe, ours, np.array([3, 2]))
    for step in range(6):
        runs = 1 if step % 3 == 2 else 2  # the second run has two steps per epoch
        optimiser.give(0, [slopes[step, :runs]])
        optimiser.step(runs, step // 3)
    for run, steps in ((0, range(6)), (1, (0, 1, 3, 4))):
        theirs = nn.Parameter(start[run].clone())
        other = reference([theirs])
        for step in steps:
            theirs.grad = slopes[step, run].clone()
            other.step()
        assert torch.allclose(ours["w"][run], theirs, atol=1e-12)


def test_runs_that_go_on_keep_their_moments() -> None:
    slopes = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    recipe = Recipe(lr=0.1, epochs=4, schedule="cosine")
    whole, rest = ({"w": torch.zeros(3, 2, dtype=torch.float64)} for _ in range(2))
    one, two = (Optimiser(recipe, stack, np.ones(3)) for stack in (whole, rest))
    for step in range(4):
        one.give(0, [slopes[step]])
        one.step(3, step)
        if step == 2:
            rest = {"w": rest["w"][[0, 2]]}
            two.keep(np.array([0, 2]), rest)
        two.give(0, [slopes[step] if step < 2 else slopes[step][[0, 2]]])
        two.step(3 if step < 2 else 2, step)
    assert torch.equal(whole["w"][[0, 2]], rest["w"])


def test_cosine_ends_at_the_floor() -> None:
    recipe = Recipe(epochs=10, lr=1.0, schedule="cosine", floor=0.01, warmup_epochs=1, warmup_lr=0.5)
    rates = [learning_rate(recipe, step, 4, step // 4) for step in range(41)]
    assert rates[:4] == [0.5] * 4
    assert rates[4] == pytest.approx(0.01 + 0.99 * (1 + np.cos(np.pi * 0.1)) / 2)
    assert rates[40] == pytest.approx(0.01)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))


def test_masked_auc_is_that_of_the_evaluation() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(5, 30, 4, generator=generator, dtype=torch.float64).mul(8).round().add(1)
    chances = scores / scores.sum(dim=-1, keepdim=True)
    labels = torch.randint(0, 4, (5, 30), generator=generator)
    labels[2] = labels[2] % 3  # one class is missing
    labels[3] = 1  # all but one are
    mask = torch.arange(30) < torch.tensor([30, 20, 30, 30, 9])[:, None]
    found = masked_macro_auc(chances, labels, mask)
    for run in range(5):
        size = int(mask[run].sum())
        expected = metrics.macro_auc(labels[run, :size].numpy(), chances[run, :size].numpy())
        assert float(found[run]) == pytest.approx(float(expected), abs=1e-12, nan_ok=True)


def test_early_stopping() -> None:
    stopping = EarlyStopping(Recipe(min_delta=0.01, patience=2), 2)
    runs = np.array([0, 1])
    scores = [(0.5, 0.5), (0.6, 0.505), (0.605, 0.507)]
    seen = [stopping.see(runs, np.array(values), epoch) for epoch, values in enumerate(scores)]
    assert [better.tolist() for better, _ in seen] == [[True, True], [True, False], [False, False]]
    assert [stopped.tolist() for _, stopped in seen] == [[False, False], [False, False], [False, True]]
    assert stopping.epochs.tolist() == [2, 1]
    assert stopping.best.tolist() == [0.6, 0.5]


def test_validation_keeps_the_best_epoch() -> None:
    found = fitted("classifier", selection="validation")
    assert (found.epochs <= 20).all()
    rows = SHOTS.validation
    chances = torch.stack(
        [found.logits(TABLE[rows.rows[run]], runs=[run])[0].softmax(dim=-1) for run in range(SHOTS.runs)]
    )
    assert masked_macro_auc(chances, rows.labels, rows.mask).numpy() == pytest.approx(found.scores)
    shorter = [replace(feature_method("classifier").settings.recipe, epochs=int(e)) for e in found.epochs[:2]]
    for run, recipe in enumerate(shorter):
        alone = fitted("classifier", SHOTS.take([run]), recipe=recipe)
        assert torch.allclose(alone.logits(TABLE)[0], found.logits(TABLE)[run], atol=1e-6)


def test_validation_chooses_the_penalty() -> None:
    found = fitted("linear_probe", selection="validation")
    for l2 in feature_method("linear_probe").settings.grid:
        other = fitted("linear_probe", l2=l2)
        for run in range(SHOTS.runs):
            rows = SHOTS.validation.take(slice(run, run + 1))
            chances = other.logits(TABLE[rows.rows[0]], runs=[run]).softmax(dim=-1)
            assert float(masked_macro_auc(chances, rows.labels, rows.mask)[0]) <= found.scores[run] + 1e-9


def test_class_without_a_shot_is_named() -> None:
    rows = SHOTS.train
    labels = torch.where((rows.labels == 2) & (torch.arange(6) == 3)[:, None], 1, rows.labels)
    with pytest.raises(
        GlomflowError, match=r"run 3, 8 shots: class 'ischaemic' has no shot.*few_shot\.classes"
    ):
        fitted("classifier", replace(SHOTS, train=replace(rows, labels=labels)))


@pytest.mark.parametrize("name", FEATURE_METHODS)
def test_class_with_fewer_shots_works(name: str) -> None:
    rows = [0, 1, 2, 3, 4, 6, 7]  # classes 0 and 1 three times, class 2 once
    chosen = Rows.of([rows], [LABELS[rows].tolist()])
    shots = Shots(CLASSES, chosen, None, ("run 0, 3 shots",), (1,))
    assert torch.isfinite(fitted(name, shots).logits(TABLE)).all()


def only(rows: Rows, classes: list[int]) -> Rows:
    kept = [
        [(row, label) for row, label, there in zip(*own, strict=True) if there and label in classes]
        for own in zip(rows.rows.tolist(), rows.labels.tolist(), rows.mask.tolist(), strict=True)
    ]
    return Rows.of([[row for row, _ in own] for own in kept], [[label for _, label in own] for own in kept])


def test_class_missing_from_validation_is_said() -> None:
    held = only(SHOTS.validation, [0, 2])
    found = fitted("classifier", replace(SHOTS, validation=held), "validation")
    assert len(found.remarks) == SHOTS.runs
    assert "no validation image of global_sclerosis" in found.remarks[0]
    assert np.isfinite(found.scores).all()


def test_validation_of_one_class_is_refused() -> None:
    held = only(SHOTS.validation, [1])
    with pytest.raises(GlomflowError, match=r"show 1 class.*set selection: fixed"):
        fitted("classifier", replace(SHOTS, validation=held), "validation")


def test_batches_of_one() -> None:
    one = replace(feature_method("classifier").settings.recipe, batch_size=1)
    with pytest.raises(GlomflowError, match="classifier: batch_size is 1"):
        fitted("classifier", recipe=one)
    for name in ("clip_adapter", "tip_adapter_f", "clap"):
        recipe = replace(feature_method(name).settings.recipe, batch_size=1, epochs=2, lr=1e-4)
        assert torch.isfinite(fitted(name, recipe=recipe).logits(TABLE)).all()


def test_divergence_names_run_and_rate() -> None:
    recipe = replace(feature_method("clap").settings.recipe, lr=1e200, warmup_epochs=0)
    with pytest.raises(DivergedError, match=r"clap, run \d, .*learning rate \(1e\+200\)"):
        fitted("clap", constraint=True, recipe=recipe)


def test_text_without_tower_is_refused_by_coop() -> None:
    with pytest.raises(GlomflowError, match="coop learns prompts through a text tower"):
        fit(feature_method("coop"), TABLE, SHOTS, ClassText(TEXT.embeddings, TEXT.scale))
