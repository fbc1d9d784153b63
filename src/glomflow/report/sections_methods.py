"""Methods and limits in words: what the numbers rest on and what they do not say."""

from __future__ import annotations

from glomflow.config import DEFAULT_ENCODER, Encoder, Model
from glomflow.report.blocks import Block, Bullets, Heading, Section
from glomflow.report.material import Material
from glomflow.report.numbers import listing, percent, thousands
from glomflow.report.words_few_shot import (
    CALIBRATION_NOTE,
    SIMILARITY_NOTE,
    image_backbones,
    image_words,
    method_labels,
)
from glomflow.report.words_models import (
    KINDS,
    attention_words,
    loss_words,
    models_table,
    pooling_words,
    training_words,
)

TRAINABLE = {
    "none": "frozen; its features are computed once",
    "last": "with its last stage trained",
    "all": "trained as a whole",
}
"""What of the encoder is trained, in words."""


def methods_section(material: Material) -> Section:
    """What was done, and what the numbers do not say."""
    methods = _encoders(material)
    if material.summary is not None:
        methods += _diagnosis_methods(material)
    if material.few_shot is not None:
        methods += [_few_shot_method(material), ("Calibration of few-shot methods", f"{CALIBRATION_NOTE}.")]
        shown = any(not one["remark"] for one in material.similarity.values())
        methods += [("Patches and texts", f"{SIMILARITY_NOTE}.")] if shown else []
    methods.append(_intervals(material))
    blocks: list[Block] = [Bullets(methods)]
    if material.summary is not None and len(material.config.diagnosis.models) > 1:
        blocks.append(models_table(material.config.diagnosis.models))
    blocks += [Heading("What the numbers do not say"), Bullets(limits(material))]
    return Section("methods", "Methods and limits", blocks)


def _encoders(material: Material) -> list[tuple[str, str]]:
    """Says what each encoder is that a model, or the few-shot track, uses."""
    settings = material.config
    used = {DEFAULT_ENCODER} if material.few_shot is not None else set()
    if material.few_shot is not None:
        used |= {backbone.encoder for backbone in image_backbones(settings).values()}
    if material.summary is not None:
        for model in settings.diagnosis.models.values():
            used |= {settings.encoder_name(model, name) for name in model.modalities}
    named = [(DEFAULT_ENCODER, settings.encoder), *settings.encoders.items()]
    return [
        ("Encoder" if name == DEFAULT_ENCODER else f"Encoder {name}", _encoder(encoder))
        for name, encoder in named
        if name in used
    ]


def _encoder(encoder: Encoder) -> str:
    weights = encoder.weights
    origin = "random weights" if weights == "random" else f"weights {weights}"
    shared = ", one for all modalities" if encoder.shared else ""
    return f"{encoder.name} ({origin}), {TRAINABLE[encoder.trainable]}{shared}."


def _diagnosis_methods(material: Material) -> list[tuple[str, str]]:
    settings = material.config.diagnosis
    name, model = next(iter(settings.models.items()))
    return [
        (
            "Models",
            f"{len(settings.models)}, all on the same images, folds and schedule; the table below says what "
            "each is."
            if len(settings.models) > 1
            else f"{name}: {KINDS[model.kind]}; TEM instances: {pooling_words(model)}; attention between "
            f"modalities: {attention_words(model)}.",
        ),
        (
            "Loss",
            f"cross-entropies of the heads, weighted {loss_words(settings.loss, model)}; heads of a modality "
            "that a patient lacks are not scored.",
        ),
        ("Training", f"{training_words(settings.training)}."),
        (
            "Test patients",
            "each is predicted by models of the fold that holds the patient out; their labels are no input "
            "of training, and no epoch, threshold or setting is chosen by them.",
        ),
    ]


def _few_shot_method(material: Material) -> tuple[str, str]:
    settings = material.config.few_shot
    floor = "colour moments and local binary patterns"
    inputs, rest = ("features" if "linear_probe" in settings.methods else floor), ""
    if len(settings.methods) > 1:
        rest = f"; the same recipe on {floor} is the floor that features have to beat"
    if settings.adapted:
        rest += f". Adapted models on the same draws: {_adapted(material)}"
    if settings.ensembles:
        labels = method_labels(material.config)
        named = [f"{name} of {listing([labels[m] for m in own])}" for name, own in settings.ensembles.items()]
        rest += f". Ensembles average log probabilities: {'; '.join(named)}"
    text = (
        f"logistic regression (L2, C = {settings.l2:g}, classes weighted equally) on {inputs} "
        f"standardised by the training slides and scaled to unit length{rest}."
    )
    return "Few labelled glomeruli", text


def _adapted(material: Material) -> str:
    """Says how the vision-language models were adapted."""
    few_shot, labels = material.config.few_shot, method_labels(material.config)
    parts = []
    for name, model in few_shot.adapted.items():
        chosen = ", epochs or settings chosen on validation slides" if model.selection == "validation" else ""
        parts.append(f"{labels[name]} (settings {model.preset}{chosen})")
    images = [image_words(name, section) for name, section in image_backbones(material.config).items()]
    return "; ".join([listing(parts), *images])


def _intervals(material: Material) -> tuple[str, str]:
    settings = material.config.evaluation
    units = "patients within classes"
    if material.few_shot is not None:
        units = "slides and runs" if material.summary is None else f"{units} (few-shot: slides and runs)"
    return (
        "Intervals",
        f"{percent(settings.confidence)}, from {thousands(settings.bootstrap)} bootstrap resamples of "
        f"{units}; Wilson's for sensitivities and specificities. Where a bootstrap collapses, one that "
        "needs no resampling stands in.",
    )


def limits(material: Material) -> list[tuple[str, str]]:
    """Returns what a reader must not conclude, for this configuration."""
    items = []
    if material.is_phantom:
        items.append(
            (
                "A phantom is not a patient",
                "Its images hold only what the program draws, and its ceilings hold only for the rules that "
                "it draws by. No number here estimates what the model would do in a hospital.",
            )
        )
    another = (
        "Training and test cases come from the same places. The numbers speak of further cases from "
        "these laboratories, not of a new one with its own stains, microscopes and case mix."
    )
    if material.config.folds.protocol == "leave_one_site_out" and material.summary is not None:
        another = (
            "Each site was told by models of the others, which is what a new laboratory would meet; but "
            "there are only so many sites, and the intervals resample patients, not sites."
        )
    elif material.summary is None and material.config.few_shot.protocol == "leave_one_site_out":
        another = (
            "Each site was told by models of the others, which is what a new laboratory would meet; but "
            "there are only so many sites, and the intervals resample slides within them, not sites."
        )
    items.append(("Another hospital", another))
    if material.summary is not None:
        items += _diagnosis_limits(material)
    if material.few_shot is not None:
        items.append(
            (
                "Few slides",
                "Runs draw from the same slides, so that more runs do not make more evidence. Intervals from "
                "few slides are somewhat too narrow.",
            )
        )
    if (
        material.config.imaging.stain.target == "cohort_median"
        and material.config.imaging.stain.method != "none"
    ):
        items.append(
            (
                "Stain target",
                "It is the median of all slides, test slides included: no label enters, but a new slide "
                "would not have been part of it.",
            )
        )
    items.append(("Use", "This is research software. It is no medical device, and no diagnosis rests on it."))
    return items


def _diagnosis_limits(material: Material) -> list[tuple[str, str]]:
    settings = material.config.diagnosis
    folds, seeds = material.config.folds, len(settings.training.seeds)
    left = ["seed"] if seeds == 1 else []
    left += ["choice of folds"] if folds.repeats == 1 and folds.protocol != "leave_one_site_out" else []
    items = [
        (
            "Training is a draw, too",
            "The intervals resample patients with the predictions as they are. They leave out what another "
            + listing([*left, "draw of training patients"], "or")
            + " would change; the SD over folds hints at it, but folds share training patients.",
        ),
        (
            "Mix of diagnoses",
            f"Only {listing(list(material.config.cohort.classes))} occur, in the proportions of this cohort. "
            "Predictive values would change with the case mix, and any other disease would be called one of "
            "these.",
        ),
        (
            "Weights are no explanation",
            "An instance's weight says how much it entered the sum, not why the model decided.",
        ),
    ]
    published = [name for name, model in settings.models.items() if _parity(model)]
    if published:
        items.append(
            (
                "Parity",
                f"{listing(published)} follow{'s' if len(published) == 1 else ''} the published arithmetic, "
                "known defects included.",
            )
        )
    if material.config.folds.protocol == "published":
        items.append(
            ("No validation patients", "The published split has none, so that no epoch can be chosen.")
        )
    return items


def _parity(model: Model) -> bool:
    return model.parity
