"""Sections on what went in: cohort, image quality, stain, crops, folds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from glomflow.config import Folds, ImCrops
from glomflow.report import tables
from glomflow.report.blocks import Block, Bullets, Picture, Prose, Section, Table
from glomflow.report.material import Material
from glomflow.report.numbers import count, listing, number, percent, thousands
from glomflow.report.pictures import embed
from glomflow.report.quality import flags_table
from glomflow.tables import MODALITIES


def figure(material: Material, name: str, further: str = "") -> list[Picture]:
    """Returns the picture of a figure, if its file is among the inputs."""
    path = material.inputs.figures.get(name)
    return [] if path is None else [embed(name, path, further)]


def diagnosed(material: Material) -> pd.DataFrame | None:
    """Returns the patients if the cohort has diagnoses."""
    patients = material.patients
    return None if patients is None or patients["label"].isna().all() else patients


def lacking(patients: pd.DataFrame, inventory: pd.DataFrame) -> dict[str, int]:
    """Counts, by modality, the patients with some usable image but none of that modality."""
    usable = inventory[inventory["status"] == "ok"].groupby("patient")["modality"].agg(set)
    present = [usable[patient] for patient in patients["patient"] if patient in usable.index]
    return {name: sum(name not in own for own in present) for name in MODALITIES}


CROP_LOGS = {"OM": "glomerulus_crops", "IM": "im_crops", "TEM": "tem_tiles"}
"""Folders of the logs that say why an image gave no crop."""


def accounted(material: Material) -> pd.DataFrame | None:
    """Returns the inventory; images of a patient who got no crop of their modality are left out, too."""
    inventory = material.inventory
    if inventory is None:
        return None
    inventory = inventory.copy()
    stores = (material.inputs.om_store, material.inputs.im_store, material.inputs.tem_store)
    for modality, store in zip(MODALITIES, stores, strict=True):
        if not store:
            continue
        crops = material.crops.get(modality)
        served = set() if crops is None else set(crops["patient"])
        idle = (inventory["modality"] == modality) & (inventory["status"] == "ok")
        idle &= ~inventory["patient"].isin(served)
        logs = [f"logs/{CROP_LOGS[modality]}/{shard:04d}.log" for shard in inventory.loc[idle, "shard"]]
        inventory.loc[idle, "reason"] = [
            f"it could be opened but gave no crop; {log} says why" for log in logs
        ]
        inventory.loc[idle, "status"] = "no_crop"
    return inventory


def exclusion_sentences(material: Material) -> list[str]:
    """Says in words what was left out of the analysis."""
    patients, inventory = material.patients, accounted(material)
    if patients is None or inventory is None:
        return []
    left_out = inventory[inventory["status"] != "ok"]
    images = count(len(inventory), "image")
    sentences = [f"Of {images}, all could be used."]
    if len(left_out):
        kinds = left_out["status"].value_counts()
        parts = [
            f"{thousands(int(n))} {tables.STATUSES.get(str(kind), str(kind))}" for kind, n in kinds.items()
        ]
        verb = "was" if len(left_out) == 1 else "were"
        sentences = [f"Of {images}, {thousands(len(left_out))} {verb} left out ({listing(parts)})."]
    excluded = material.excluded_patients
    if excluded is not None and len(excluded):
        verb = "takes" if len(excluded) == 1 else "take"
        sentences.append(f"{count(len(excluded), 'patient')} without a usable image {verb} no part.")
    if diagnosed(material) is not None:
        missing = [f"{n} without {name}" for name, n in lacking(patients, inventory).items() if n]
        if missing:
            sentences.append(
                f"Some patients lack a modality ({listing(missing)}); they take part with what they have."
            )
    return sentences


def cohort_section(material: Material) -> Section | None:
    """Patients, images and what was left out."""
    patients, inventory = material.patients, accounted(material)
    if patients is None or inventory is None:
        return None
    blocks: list[Block] = []
    if material.summary is None and material.few_shot is None:
        blocks.append(Prose(" ".join(exclusion_sentences(material))))
    blocks += figure(material, "cohort_overview")
    labelled = diagnosed(material)
    if labelled is not None:
        blocks.append(tables.cohort_table(labelled, material.config.cohort.classes))
    blocks.append(tables.modality_table(patients, inventory))
    blocks += lesion_blocks(material)
    blocks += optional(tables.exclusions_table(inventory))
    excluded = material.excluded_patients
    blocks += optional(None if excluded is None else tables.excluded_patients_table(excluded))
    return Section("cohort", "Cohort and exclusions", blocks)


def optional(table: Table | None) -> list[Block]:
    """Returns a table as a list of blocks, empty where there is none."""
    return [] if table is None else [table]


def lesion_blocks(material: Material) -> list[Block]:
    """Glomeruli by lesion class and slide, in the glomerulus track."""
    crops = material.crops.get("OM")
    if crops is None or "glomeruli" not in material.config.run.tracks or crops["lesion"].isna().all():
        return []
    return [tables.lesion_table(crops, lesion_classes(material))]


def lesion_classes(material: Material) -> list[str]:
    """Returns the lesion classes of the glomerulus track, in order."""
    crops = material.crops.get("OM")
    if material.config.few_shot.classes:
        return list(material.config.few_shot.classes)
    return [] if crops is None else sorted(str(name) for name in crops["lesion"].dropna().unique() if name)


def quality_section(material: Material) -> Section | None:
    """Sharpness, tissue and saturation of the images, and how many are flagged as poor."""
    inventory = material.inventory
    if inventory is None or not (inventory["status"] == "ok").any():
        return None
    blocks: list[Block] = [
        tables.quality_table(inventory),
        flags_table(inventory, material.config.imaging.quality),
        *figure(material, "worst_images"),
    ]
    return Section("quality", "Image quality", blocks)


STAIN_TARGETS = {
    "standard": "to fixed published stain vectors and colour statistics; no image of the cohort enters them",
    "cohort_median": "to the median of all slides' profiles, test patients' too (no labels enter)",
    "reference": "to the profile of the reference image, or the mean of several",
    "training_folds": "to the median of the slides of each fold's training patients (pictures: the "
    "first fold's)",
}
"""What slides are matched to, in words."""


def stain_section(material: Material) -> Section | None:
    """Stain normalisation: how, and what it did."""
    profiles, settings = material.stain_profiles, material.config.imaging.stain
    panels = figure(material, "stain_panels")
    if profiles is None and not panels:
        return None
    if settings.method == "none":
        text = "Colours were left as they were scanned."
    else:
        text = (
            f"Colours of light micrographs were matched with the method of {settings.method.capitalize()}, "
            f"{STAIN_TARGETS[settings.target]}. A slide's profile rests on its tissue pixels at "
            f"{settings.um_per_px:g} µm/px and is applied when crops are read; no image is rewritten."
        )
    blocks: list[Block] = [Prose(text)]
    if profiles is not None:
        flagged = profiles[profiles["flag"].fillna("") != ""]
        kept = "passes" if len(flagged) == 1 else "pass"
        outcome = (
            f"{thousands(len(flagged))} could not be estimated and {kept} through unchanged."
            if len(flagged)
            else "all could be estimated."
        )
        blocks.append(Prose(f"{count(len(profiles), 'slide profile')}; {outcome}"))
        if len(flagged):
            blocks.append(tables.flagged_table(flagged))
    return Section("stain", "Stain normalisation", [*blocks, *panels])


def crops_section(material: Material) -> Section | None:
    """What the models see."""
    names = ("crops_om", "crops_im", "crops_tem", "lesions")
    pictures = [picture for name in names for picture in figure(material, name)]
    if not material.crops and not pictures:
        return None
    om, im, tem = material.config.imaging.om, material.config.imaging.im, material.config.imaging.tem
    items = {
        "OM": (
            "Glomeruli",
            f"ready-made crops, scaled to {om.size} px."
            if material.config.cohort.source == "crops"
            else f"cut along their outlines with a margin of {percent(om.margin)}, {om.size} px at "
            f"{om.um_per_px:g} µm/px or coarser where a glomerulus does not fit"
            + ("; what lies outside the outline is white." if om.mask_background else "."),
        ),
        "IM": (
            "Immunofluorescence",
            _im_colours(im),
        ),
        "TEM": (
            "Electron micrographs",
            f"whole images without their bar, {tem.size} px."
            if tem.instance == "image"
            else f"tiles of {tem.size} px at {tem.nm_per_px:g} nm/px, scale bar and text left out, at most "
            f"{tem.max_per_image} of an image and {tem.max_instances} of a patient, the most informative.",
        ),
    }
    blocks: list[Block] = []
    if material.crops:
        diagnosis = "diagnosis" in material.config.run.tracks
        blocks = [
            Bullets([items[name] for name in material.crops]),
            tables.crops_table(material.crops, diagnosis=diagnosis),
        ]
    return Section("crops", "What the models see", [*blocks, *pictures])


def _im_colours(im: ImCrops) -> str:
    """How markers become colours, in words."""
    colours = zip(("red", "green", "blue"), im.colours, strict=True)
    text = ", ".join(f"{colour} {listing(list(markers))}" for colour, markers in colours if markers)
    text += ", on a fixed scale of brightness"
    if im.background != "none":
        text += f", less the background ({im.background})"
    if im.fitted_per_fold:
        text += "; models see each site brought to one level, fitted on the training patients of their fold"
    return f"{text}."


def split_words(material: Material) -> str:
    """Says in a few words how patients were split: ``5 folds, each once``."""
    folds = material.config.folds
    if folds.protocol == "leave_one_site_out":
        return "each site left out once"
    if folds.repeats > 1:
        return f"{folds.repeats} times {folds.n_splits} folds, once in each"
    return f"{folds.n_splits} folds, each once"


def _split_prose(settings: Folds) -> str:
    if settings.protocol == "published":
        return (
            "The published split: shuffled folds, not stratified, and no validation patients, so that "
            "nothing could be selected without the test patients."
        )
    held_out = (
        f"Of the patients outside the test fold, {percent(settings.validation_fraction)} are held out for "
        "choices such as the epoch. No patient, slide or identical file is in two splits of a fold."
    )
    if settings.protocol == "leave_one_site_out":
        return (
            f"Each site is the test fold once; its patients are told by models of the other sites. {held_out}"
        )
    text = (
        f"{settings.n_splits} folds, stratified by diagnosis, by stage within it"
        + (" and by site where numbers allow it" if settings.stratify_by_site else "")
        + ". Every patient is a test patient exactly once, with all images. "
    )
    if settings.repeats > 1:
        text += f"The patients were dealt {settings.repeats} times; the table shows the first. "
    return text + held_out


def folds_section(material: Material) -> Section | None:
    """The folds of the cross-validation."""
    folds, patients = material.folds, material.patients
    if folds is None or patients is None:
        return None
    table = tables.folds_table(folds[folds["repeat"] == 0], patients, material.config.cohort.classes)
    return Section("folds", "Folds", [Prose(_split_prose(material.config.folds)), table])


def training_section(material: Material) -> Section | None:
    """How training went."""
    curves = figure(material, "training_curves")
    histories = material.histories
    if histories is None and not curves:
        return None
    settings = material.config.diagnosis.training
    chosen = (
        "the epoch of lowest validation loss is kept"
        if settings.selection == "validation_loss"
        else "the last epoch is kept"
    )
    text = f"Adam, at most {settings.epochs} epochs of batches of {settings.batch_size} patients; {chosen}."
    blocks: list[Block] = [Prose(text)]
    if histories is not None:
        blocks.append(_epochs_table(histories, list(material.config.diagnosis.models), material))
    return Section("training", "Training", [*blocks, *curves])


def _best_epoch(run: pd.DataFrame) -> int:
    epochs: list[int] = run["epoch"].tolist()
    return epochs[int(run["validation_loss"].to_numpy().argmin())]


def _epochs_table(histories: pd.DataFrame, models: Sequence[str], material: Material) -> Table:
    by_validation = material.config.diagnosis.training.selection == "validation_loss"
    rows = []
    for model in models:
        runs = [run for _, run in histories[histories["model"] == model].groupby(["fold", "seed"])]
        if not runs:
            continue
        lengths = pd.Series([int(run["epoch"].max()) for run in runs])
        final = pd.Series([float(run.sort_values("epoch")["train_loss"].iloc[-1]) for run in runs])
        best = pd.Series([float(run["validation_loss"].min()) for run in runs])
        kept = lengths
        if by_validation and best.notna().all():
            kept = pd.Series([_best_epoch(run) for run in runs])
        rows.append(
            (
                material.model_label(model),
                str(len(runs)),
                f"{kept.median():g} ({kept.min()}–{kept.max()}) of {lengths.max()}",
                number(final.median()),
                number(best.median()),
            )
        )
    return Table(
        caption="Trainings, one per fold and seed: medians (range).",
        headers=("model", "trainings", "epoch kept", "last training loss", "lowest validation loss"),
        rows=rows,
    )
