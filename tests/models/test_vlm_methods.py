"""What each adaptation method computes."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from glomflow.errors import GlomflowError
from glomflow.models.vlm.methods.base import ClassText, Problem, Recipe, Rows, class_text
from glomflow.models.vlm.methods.registry import FEATURE_METHODS, TUNED_METHODS, feature_method, tuned_method
from glomflow.models.vlm.tokens import shortened
from vlm_fake import NAMES, PROMPTS, FakeBackbone, clusters, make_shots

TABLE, LABELS = clusters(60)
BACKBONE = FakeBackbone()
TEXT = replace(
    class_text(PROMPTS, BACKBONE),
    embeddings=functional.normalize(torch.eye(12)[:3].double() + 0.3, dim=1),
)
SHOTS = make_shots(LABELS, [4, 2])
PROBLEM = Problem(TABLE, SHOTS, TEXT)
QUERY = TABLE[None, :7].expand(2, -1, -1)


def test_prompt_ensemble_is_the_mean_of_unit_features() -> None:
    found = class_text(PROMPTS, BACKBONE).embeddings
    each = BACKBONE.text_features(BACKBONE.tokenise(PROMPTS.texts))
    assert torch.allclose(found[0], functional.normalize(each[:2].mean(0), dim=0), atol=1e-6)
    assert torch.allclose(found[1], each[2], atol=1e-6)


def test_zero_shot() -> None:
    method = feature_method("zero_shot")
    expected = TEXT.scale * TABLE[:7] @ TEXT.embeddings.T
    assert torch.allclose(method.logits(method.solve(PROBLEM), QUERY, TEXT)[1], expected)


@pytest.mark.parametrize("l2", [0.1, 1.0, 30.0])
def test_linear_probe_is_scikit_learns(l2: float) -> None:
    from sklearn.linear_model import LogisticRegression

    rows = [0, 1, 2, 3, 4, 6, 9, 12]
    train = Rows.of([rows, rows[:5]], [LABELS[rows].tolist(), LABELS[rows[:5]].tolist()])
    method = feature_method("linear_probe", l2=l2)
    ours = method.logits(method.solve(replace(PROBLEM, shots=replace(SHOTS, train=train))), QUERY, TEXT)
    for run, own in enumerate((rows, rows[:5])):
        x, y = TABLE[own].numpy(), LABELS[own].numpy()
        centre = np.mean([x[y == k].mean(0) for k in range(3)], axis=0)
        unit = [
            (v - centre) / np.linalg.norm(v - centre, axis=1, keepdims=True) for v in (x, TABLE[:7].numpy())
        ]
        theirs = LogisticRegression(C=l2, class_weight="balanced", tol=1e-12, max_iter=10000).fit(unit[0], y)
        assert ours[run].softmax(dim=-1).numpy() == pytest.approx(theirs.predict_proba(unit[1]), abs=1e-6)


def test_linear_probe_says_when_it_does_not_come_to_rest() -> None:
    with pytest.raises(GlomflowError, match=r"linear_probe, run .*no minimum within 3 iterations"):
        feature_method("linear_probe", iterations=3).solve(PROBLEM)


def test_tip_adapter_by_hand() -> None:
    method = feature_method("tip_adapter", alpha=2.0, beta=3.0)
    found = method.logits(method.solve(PROBLEM), QUERY, TEXT)
    for run in range(2):
        own = SHOTS.train.rows[run][SHOTS.train.mask[run]]
        for image in range(7):
            expected = TEXT.scale * TABLE[image] @ TEXT.embeddings.T
            for shot in own.tolist():
                expected[LABELS[shot]] += 2.0 * torch.exp(-3.0 * (1 - TABLE[image] @ TABLE[shot]))
            assert torch.allclose(found[run, image], expected)


def test_tip_adapter_f_starts_as_tip_adapter() -> None:
    one, two = feature_method("tip_adapter"), feature_method("tip_adapter_f")
    expected = one.logits(one.solve(PROBLEM), QUERY, TEXT)
    assert torch.allclose(two.logits(two.start(PROBLEM), QUERY, TEXT), expected)


def test_clip_adapter_blends() -> None:
    none = feature_method("clip_adapter", ratio=0.0)
    expected = TEXT.scale * QUERY @ TEXT.embeddings.T
    assert torch.allclose(none.logits(none.start(PROBLEM), QUERY, TEXT), expected)
    some = feature_method("clip_adapter")
    state = some.start(PROBLEM)
    down, up = state.trained["down"][1], state.trained["up"][1]
    assert down.shape == (3, 12)
    adapted = torch.relu(torch.relu(QUERY[1] @ down.T) @ up.T)
    assert torch.allclose(
        some.adapted_images(state, QUERY)[1], functional.normalize(0.2 * adapted + 0.8 * QUERY[1], dim=1)
    )


def test_clap_holds_classes_by_their_zero_shot_probability() -> None:
    method = feature_method("clap")
    state = method.start(PROBLEM)
    chances = (TEXT.scale * TABLE @ TEXT.embeddings.T).softmax(dim=1)
    own = SHOTS.train.rows[0][SHOTS.train.mask[0]]
    for number in range(3):
        rows = own[LABELS[own] == number]
        assert float(state.fixed["hold"][0, number]) == pytest.approx(float(chances[rows, number].mean()))
    state.trained["weight"] = state.trained["weight"] + 0.1
    mask = torch.ones(2, 7, dtype=torch.bool)
    labels = LABELS[:7].expand(2, -1)
    logits = method.logits(state, QUERY, TEXT)
    free = feature_method("clap", "zs_lp")
    plain = free.loss(free.start(PROBLEM), logits, labels, mask, TEXT)
    extra = method.loss(state, logits, labels, mask, TEXT) - plain
    assert torch.allclose(extra, (state.fixed["hold"] * 12 * 0.01).mean(dim=1))


def test_loss_leaves_padding_out() -> None:
    method = feature_method("clip_adapter")
    logits = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, 2, 0, 0], [2, 1, 0, 1, 2]])
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    found = method.loss(method.start(PROBLEM), logits, labels, mask, TEXT)
    assert float(found[0]) == pytest.approx(float(functional.cross_entropy(logits[0, :3], labels[0, :3])))
    assert float(found[1]) == pytest.approx(float(functional.cross_entropy(logits[1], labels[1])))


def test_classifier_draws_dropout_where_noise_is_low() -> None:
    method = feature_method("classifier", hidden=8)
    state = method.start(PROBLEM)
    mask = torch.ones(2, 7, dtype=torch.bool)
    dropped = method.training_logits(state, QUERY, TEXT, mask, torch.zeros(2, 7, 8))
    assert torch.allclose(dropped, state.trained["b2"][:, None].expand(-1, 7, -1))
    kept = method.training_logits(state, QUERY, TEXT, mask, torch.ones(2, 7, 8))
    plain = method.training_logits(state, QUERY, TEXT, mask, None)
    bias = state.trained["b2"][:, None]
    assert torch.allclose(kept - bias, 2 * (plain - bias))


def test_coop_puts_the_words_before_the_name() -> None:
    method = feature_method("coop", context=3)
    text = class_text(PROMPTS, BACKBONE)
    problem = Problem(TABLE, SHOTS, text)
    state = method.start(problem)
    assert state.trained["context"].shape == (2, 1, 3, 16)
    tokens = BACKBONE.tokenise([f"x x x {name}." for name in NAMES])
    embeddings = BACKBONE.text.token_embeddings(tokens)
    embeddings[:, 1:4] = state.trained["context"][1].float()
    expected = functional.normalize(BACKBONE.text.from_embeddings(embeddings, tokens), dim=1)
    assert torch.allclose(method.adapted_text(state, text)[1].float(), expected, atol=1e-6)


def test_text_and_images_after_adaptation() -> None:
    assert feature_method("linear_probe").adapted_text(None, TEXT) is None
    assert feature_method("classifier").adapted_text(None, TEXT) is None
    assert feature_method("zero_shot").adapted_text(None, TEXT) is TEXT.embeddings
    clap = feature_method("clap")
    assert torch.allclose(clap.adapted_text(clap.start(PROBLEM), TEXT)[0], TEXT.embeddings)


def test_published_settings() -> None:
    classifier = feature_method("classifier", "conch").settings
    assert (classifier.hidden, classifier.dropout, classifier.recipe.batch_size) == (512, 0.5, 16)
    assert (classifier.recipe.lr, classifier.recipe.weight_decay, classifier.recipe.epochs) == (
        1e-3,
        1e-4,
        20,
    )
    assert (classifier.recipe.min_delta, classifier.recipe.patience) == (0.001, 7)
    coop = feature_method("coop", "published").settings
    assert (coop.context, coop.recipe.lr, coop.recipe.optimiser, coop.recipe.epochs) == (
        16,
        0.002,
        "sgd",
        200,
    )
    tip = feature_method("tip_adapter_f", "published").settings
    assert (tip.alpha, tip.beta, tip.recipe.lr, tip.recipe.eps) == (1.0, 5.5, 1e-3, 1e-4)


def test_every_method_names_its_source() -> None:
    methods = [feature_method(name) for name in FEATURE_METHODS]
    for method in [*methods, *(tuned_method(name) for name in TUNED_METHODS)]:
        assert re.search(r"arXiv \d{4}\.\d{5}|ICML \d{4}", type(method).__doc__), method.name


def test_unknown_names() -> None:
    with pytest.raises(GlomflowError, match=r"method 'cop' is not known.*coop"):
        feature_method("cop")
    with pytest.raises(GlomflowError, match=r"preset 'x' is not known.*default"):
        feature_method("clap", "x")
    with pytest.raises(GlomflowError, match="'rate' is no setting of ClipAdapterSettings"):
        feature_method("clip_adapter", rate=1)
    with pytest.raises(GlomflowError, match="epochs is 0"):
        Recipe(epochs=0)
    with pytest.raises(GlomflowError, match="lower reduction"):
        feature_method("clip_adapter", reduction=20).start(PROBLEM)
    with pytest.raises(GlomflowError, match="coop learns prompts"):
        feature_method("coop").start(replace(PROBLEM, text=ClassText(TEXT.embeddings, 1.0)))


def test_filling_is_cut_off_only_where_it_does_not_matter() -> None:
    backbone = FakeBackbone()
    tokens = backbone.tokenise(PROMPTS.texts)
    full = backbone.text_features(tokens)
    assert shortened(backbone, tokens).shape == tokens.shape  # these blocks look at the filling, too
    attention = [block.attn for block in backbone.text.blocks]
    with torch.no_grad():
        for module in attention:  # attention that adds nothing: a text's end is all that matters
            module.out_proj.weight.zero_()
    short = shortened(backbone, tokens)
    assert short.shape[1] == 7
    assert torch.allclose(backbone.text_features(short), backbone.text_features(tokens), atol=1e-6)
    assert not torch.allclose(full, backbone.text_features(tokens))
