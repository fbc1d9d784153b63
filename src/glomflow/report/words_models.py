"""What each model is, in words."""

from __future__ import annotations

from collections.abc import Mapping

from glomflow.config import Loss, Model, Training
from glomflow.report.blocks import Table
from glomflow.report.numbers import listing

KINDS: Mapping[str, str] = {
    "cmus_net": "CMUS-Net (arXiv 2512.15171)",
    "late_fusion": "late fusion: one network per modality, mean of their probabilities",
    "concatenation": "early fusion: concatenated features",
    "gated_unit": "gated multimodal unit (Arevalo 2017)",
    "coattention": "co-attention after MCAT (Chen 2021)",
    "mmformer": "transformer after mmFormer (Zhang 2022)",
    "mdl_iia": "intra- and inter-modality attention after MDL-IIA (He 2021)",
    "logistic_regression": "logistic regression on pooled features",
    "gradient_boosting": "gradient boosting on pooled features (LightGBM, Ke 2017)",
}
"""What a kind of model is."""

POOLINGS: Mapping[str, str] = {
    "distance": "instances farther from the bag's centre than {threshold:g} times the mean distance are "
    "dropped, the others weighted by closeness (SMIL distance)",
    "sum": "the first six instances are added up with equal weight (SMIL sum)",
    "mean": "mean of the instances",
    "max": "maximum over the instances",
    "first": "the most informative instance alone",
    "top_k": "mean of the {k} instances that a learned score puts first",
    "abmil": "attention over instances (Ilse 2018)",
    "gated_abmil": "gated attention over instances (Ilse 2018)",
    "sparsemax": "attention over instances with weights that can be zero (Martins and Astudillo 2016)",
    "transmil": "a transformer over the instances (Shao 2021)",
}
"""How a bag becomes one map."""

ATTENTIONS: Mapping[str, str] = {
    "cmsa": "the other maps answer the TEM map (cross-modal scale attention, {heads} heads)",
    "none": "none",
    "self": "each map asks itself ({heads} heads)",
    "modality": "one weight per modality",
    "cross": "each map asks all others ({heads} heads)",
}
"""Attention between modalities."""


def pooling_words(model: Model) -> str:
    """Says how the TEM bag of a model becomes one map; a dash without TEM."""
    if "TEM" not in model.modalities or model.kind == "coattention":
        return "–"
    return POOLINGS[model.smil.variant].format(threshold=model.smil.threshold, k=model.smil.k)


def attention_words(model: Model) -> str:
    """Says which attention between modalities a model has; a dash where its kind brings its own."""
    if model.kind != "cmus_net" or len(model.modalities) == 1:
        return "–"
    if model.cmsa.variant == "cmsa" and "TEM" not in model.modalities:
        return "none (no TEM)"
    return ATTENTIONS[model.cmsa.variant].format(heads=model.cmsa.heads)


def notes(model: Model) -> str:
    """Names what else sets a model apart."""
    found = []
    if model.task == "stage":
        found.append("MN stage")
    if model.ordinal:
        found.append("ordinal heads")
    if model.encoders:
        found.append("encoders " + ", ".join(f"{name}: {key}" for name, key in model.encoders.items()))
    if model.width:
        found.append(f"projected to {model.width} channels")
    if model.absent == "learned":
        found.append("learned stand-in for a missing modality")
    if model.modality_dropout:
        found.append(f"modality dropout {model.modality_dropout:g}")
    if model.loss is not None:
        found.append("loss of its own: " + loss_words(model.loss, model))
    if model.parity:
        found.append("published arithmetic")
    return "; ".join(found) or "–"


def loss_words(loss: Loss, model: Model) -> str:
    """Says what a model's loss is made of."""
    heads = ["fusion", *model.modalities]
    text = ", ".join(f"{head} {loss.weight_of(head):g}" for head in heads)
    if loss.weighting == "uncertainty":
        text += ", weights learned from there (Kendall 2018)"
    if loss.class_weights == "balanced":
        text += ", classes balanced"
    if loss.focal_gamma:
        text += f", focal with gamma {loss.focal_gamma:g} (Lin 2017)"
    if loss.label_smoothing:
        text += f", labels smoothed by {loss.label_smoothing:g}"
    return text


def training_words(training: Training) -> str:
    """Says how networks were trained."""
    name = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}[training.optimiser]
    selected = (
        "the epoch of lowest validation loss is kept"
        if training.selection == "validation_loss"
        else "the last epoch is kept"
    )
    parts = [
        f"{name}, learning rate {training.learning_rate:g} to {training.final_learning_rate:g} on a cosine",
        f"weight decay {training.weight_decay:g}",
        f"{training.epochs} epochs of {training.batch_size} patients a step",
    ]
    if training.warmup_epochs:
        parts.append(f"{training.warmup_epochs} epochs of warm-up")
    if training.ema is not None:
        parts.append(f"moving average of the weights ({training.ema:g})")
    if training.patience is not None:
        parts.append(f"stopped after {training.patience} epochs without a better one")
    seeds = len(training.seeds)
    return f"{', '.join(parts)}; {selected}" + (f"; {seeds} seeds each" if seeds > 1 else "")


def models_table(models: Mapping[str, Model]) -> Table:
    """Lists the models with what sets them apart."""
    rows = [
        [
            name,
            listing(list(model.modalities)),
            KINDS[model.kind],
            pooling_words(model),
            attention_words(model),
            notes(model),
        ]
        for name, model in models.items()
    ]
    return Table(
        "The models that were compared.",
        ["model", "modalities", "kind", "TEM instances", "attention between modalities", "besides"],
        rows,
        text_columns=frozenset(range(6)),
    )
