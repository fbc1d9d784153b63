"""A made-up run of both tracks: tables as the workflow writes them, filled from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glomflow.cohort.folds import fold_digest, make_folds, task_patients
from glomflow.config import Cohort, Config, Diagnosis, Evaluation, FewShot, Folds, Model, Run, Smil
from glomflow.evaluation.draws import draw_shots
from glomflow.evaluation.few_shot_summary import few_shot_summary
from glomflow.evaluation.instances import HITS
from glomflow.evaluation.missing import MISSING, RATES
from glomflow.evaluation.summary import summarise
from glomflow.files import write_json
from glomflow.report.page import ReportInputs
from glomflow.tables import CROPS, FEW_SHOT_SPACE, FOLDS, INVENTORY, PATIENTS, STAIN_PROFILES, write_table

CLASSES = ["IgAN", "MN", "LN"]
LESIONS = ["global_sclerosis", "normal", "segmental_sclerosis"]
CEILINGS = {
    "OM": 0.7,
    "IM": 0.8,
    "TEM": 0.85,
    "OM+IM": 0.9,
    "OM+TEM": 0.933,
    "IM+TEM": 0.943,
    "OM+IM+TEM": 0.99,
}
SKILL = {"cmus_net": 0.86, "om": 0.6, "im": 0.7, "tem": 0.75, "cmus_net_sum": 0.84}


@dataclass(frozen=True)
class MadeUpRun:
    """What a report reads, and the frames behind it."""

    inputs: ReportInputs
    config: Config
    patients: pd.DataFrame
    inventory: pd.DataFrame
    predictions: pd.DataFrame


def made_up_config(**evaluation) -> Config:
    return Config(
        run=Run(tracks=["diagnosis", "glomeruli"]),
        diagnosis=Diagnosis(
            models={
                "cmus_net": Model(),
                "om": Model(modalities=["OM"]),
                "im": Model(modalities=["IM"]),
                "tem": Model(modalities=["TEM"]),
                "cmus_net_sum": Model(smil=Smil(variant="sum")),
                "stage_ordinal": Model(task="stage", ordinal=True),
                "stage_plain": Model(task="stage"),
            }
        ),
        few_shot=FewShot(shots=[1, 2, 4, 8], runs=4),
        evaluation=Evaluation(**{"bootstrap": 200, **evaluation}),
    )


def made_up_patients(count: int = 60) -> pd.DataFrame:
    number = np.arange(count)
    return pd.DataFrame(
        {
            "patient": [f"P{value:03d}" for value in number],
            "label": [CLASSES[value % 3] for value in number],
            "site": [["north", "south", "west"][value // 3 % 3] for value in number],
            "stage": [["I", "II", "III"][value // 9 % 3] if value % 3 == 1 else None for value in number],
            "shard": number % 2,
        }
    )


def made_up_inventory(patients: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for patient, shard in zip(patients["patient"], patients["shard"], strict=True):
        for modality, images in (("OM", 1), ("IM", 1), ("TEM", int(rng.integers(3, 13)))):
            for number in range(images):
                path = f"{modality}/{patient}_{number}.tif"
                rows.append(
                    {
                        "image": path.replace("/", "__")[:-4],
                        "patient": patient,
                        "modality": modality,
                        "path": path,
                        "slide": f"{patient}-{modality}",
                        "shard": shard,
                        "status": "ok",
                        "reason": "",
                        "reader": "tiff",
                        "width": 2048,
                        "height": 2048,
                        "levels": 3,
                        "channels": "R;G;B",
                        "dtype": "uint8",
                        "um_per_px": {"OM": 0.5, "IM": 0.4, "TEM": 0.004}[modality],
                        "pixel_size_from": "tags",
                        "sha256": "0" * 64,
                        "bytes": 1000,
                        "focus": rng.lognormal(-4, 0.5),
                        "focus_um_per_px": {"OM": 1.0, "IM": 1.0, "TEM": 0.02}[modality],
                        "tissue_fraction": rng.uniform(0.2, 0.9),
                        "saturated_fraction": rng.uniform(0, 0.02),
                        "quality": "",
                        "thumbnail": f"thumbnails/{shard:04d}/{path.replace('/', '__')[:-4]}.png",
                    }
                )
    frame = pd.DataFrame(rows).reindex(columns=list(INVENTORY))
    spoil(frame, "OM__P004_0", "missing_file", "OM/P004_0.tif: there is no such file; correct the path")
    spoil(frame, "TEM__P010_1", "unreadable", "TEM/P010_1.tif: it ends early; copy it again")
    for image in frame.loc[frame["patient"] == "P017", "image"]:
        spoil(frame, image, "blank", "the image is empty; scan it again")
    for image, measures in {
        "OM__P003_0": {"pen_fraction": 0.08, "focus": 0.001, "quality": "blurred;pen"},
        "OM__P009_0": {"pen_fraction": 0.03, "quality": "pen"},
        "TEM__P012_0": {"drift": 0.31, "quality": "drift"},
    }.items():
        frame.loc[frame["image"] == image, list(measures)] = list(measures.values())
    return frame


def spoil(frame: pd.DataFrame, image: str, status: str, reason: str) -> None:
    frame.loc[frame["image"] == image, ["status", "reason"]] = [status, reason]


def made_up_predictions(
    patients: pd.DataFrame, folds: pd.DataFrame, config: Config, task: str = "disease"
) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    test = folds[folds["split"] == "test"].set_index("patient")["fold"]
    classes = config.classes_of(task)
    truth = patients["label"].map(classes.index).to_numpy()
    frames = []
    for model in config.diagnosis.models_of(task):
        guess = np.where(
            rng.random(len(truth)) < SKILL.get(model, 0.6), truth, rng.integers(0, 3, len(truth))
        )
        logits = rng.normal(0, 0.8, (len(truth), 3))
        logits[np.arange(len(truth)), guess] += 2.2
        scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        frame = pd.DataFrame({"patient": patients["patient"], "model": model})
        frame["fold"] = frame["patient"].map(test).to_numpy()
        frame["seed"] = 0
        frame["predicted"] = [classes[k] for k in scores.argmax(axis=1)]
        modalities = config.diagnosis.models[model].modalities
        frame["modalities"] = "+".join(modalities)
        frame.loc[frame["patient"] == "P004", "modalities"] = "IM+TEM"
        frame[[f"p_{name}" for name in classes]] = scores
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def made_up_missing(config: Config, task: str) -> pd.DataFrame:
    rows = [
        {"model": model, "rate": rate, "metric": metric, "value": 0.9 - rate / 3, "patients": 59}
        for model in config.diagnosis.partial_of(task)
        for metric in ("accuracy", "balanced_accuracy")
        for rate in RATES
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(lower=frame["value"] - 0.1, upper=frame["value"] + 0.05)


def made_up_crops(inventory: pd.DataFrame, modality: str, lesions: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    usable = inventory[(inventory["modality"] == modality) & (inventory["status"] == "ok")]
    frame = usable.loc[usable.index.repeat(3 if modality == "OM" else 1)].reset_index(drop=True)
    frame["row"] = np.arange(len(frame))
    frame["crop"] = [f"{image}#{row}" for image, row in zip(frame["image"], frame["row"], strict=True)]
    frame[["x", "y", "width", "height"]] = [100.0, 120.0, 64.0, 64.0]
    frame["um_per_px"] = 0.02 if modality == "TEM" else 1.0
    frame["lesion"] = rng.choice(LESIONS, len(frame)) if lesions else None
    frame["information"] = rng.random(len(frame))
    frame["selected"] = True
    frame["flag"] = ""
    return frame[list(CROPS)]


def made_up_few_shot(crops: pd.DataFrame, config: Config):
    rng = np.random.default_rng(5)
    draws = draw_shots(crops, config.few_shot, seed=1)
    test = draws[draws["split"] == "test"]
    parts = []
    for method, skill in (("linear_probe", 1.3), ("colour_texture", 0.9)):
        for shots in config.few_shot.shots:
            truth = test["label"].map(LESIONS.index).to_numpy()
            logits = rng.normal(0, 1, (len(test), 3))
            logits[np.arange(len(test)), truth] += skill * (1 + np.log2(shots))
            scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            part = test[["run", "crop", "slide", "label"]].assign(method=method, shots=shots)
            part["predicted"] = [LESIONS[k] for k in scores.argmax(axis=1)]
            part[list(FEW_SHOT_SPACE)] = np.nan
            part[[f"p_{name}" for name in LESIONS]] = scores
            parts.append(part)
    predictions = pd.concat(parts, ignore_index=True)
    return few_shot_summary(predictions, draws, config.evaluation, seed=1)


def made_up_hits() -> pd.DataFrame:
    rows = []
    for model, values in {
        "cmus_net": (0.22, 0.30, 0.27, 0.81),
        "cmus_net_sum": (0.33, 0.33, 0.33, 1.0),
    }.items():
        measures = zip(("top1", "top3", "weight_share", "kept"), values, strict=True)
        for measure, value in measures:
            chance = 0.96 if measure == "kept" else 0.33
            chance = 1.0 if (measure, model) == ("kept", "cmus_net_sum") else chance
            half = 0.08 if model == "cmus_net" else 0.0
            rows.append(
                {
                    "model": model,
                    "measure": measure,
                    "value": value,
                    "lower": value - half,
                    "upper": value + half,
                    "chance": chance,
                    "excess": value - chance,
                    "excess_lower": value - chance - half,
                    "excess_upper": value - chance + half,
                    "patients": 52,
                    "tiles": 410,
                }
            )
    return pd.DataFrame(rows)


def made_up_histories(folder: Path, config: Config) -> list[tuple[str, int, int, Path]]:
    rng = np.random.default_rng(6)
    epochs = np.arange(1, 41)
    files = []
    for model in config.diagnosis.models_of("disease"):
        for fold in range(5):
            train = 2.2 * np.exp(-epochs / 12) + 0.3 + rng.normal(0, 0.02, 40)
            held_out = 2.2 * np.exp(-epochs / 10) + 0.6 + 0.006 * epochs + rng.normal(0, 0.05, 40)
            frame = pd.DataFrame({"epoch": epochs, "train_loss": train, "validation_loss": held_out})
            path = folder / f"{model}_{fold}.history.parquet"
            frame.to_parquet(path)
            files.append((model, fold, 0, path))
    return files


def made_up_profiles(inventory: pd.DataFrame) -> pd.DataFrame:
    slides = inventory.loc[(inventory["modality"] == "OM") & (inventory["status"] == "ok"), "slide"]
    frame = pd.DataFrame({"slide": slides.to_numpy()})
    frame["method"] = "macenko"
    for column in ("matrix", "concentrations", "lab_mean", "lab_std", "background"):
        frame[column] = "[]"
    frame["tissue_pixels"] = 5000
    frame["flag"] = ""
    frame.loc[3, ["tissue_pixels", "flag"]] = [40, "too few tissue pixels"]
    return frame[list(STAIN_PROFILES)]


def make_run(folder: Path) -> MadeUpRun:
    folder.mkdir(parents=True, exist_ok=True)
    config = made_up_config()
    patients = made_up_patients()
    inventory = made_up_inventory(patients, np.random.default_rng(2))
    eligible = patients[patients["patient"] != "P017"].reset_index(drop=True)
    folds = make_folds(eligible, Folds(), seed=1)
    predictions = made_up_predictions(eligible, folds, config)
    truth = {
        "ceilings": CEILINGS,
        "realised_ceilings": {key: value + 0.004 for key, value in CEILINGS.items()},
    }
    write_table(folder / "patients.parquet", patients, PATIENTS)
    write_table(folder / "inventory.parquet", inventory, INVENTORY)
    write_table(folder / "folds.parquet", folds, FOLDS)
    write_json(folder / "folds.json", {"sha256": fold_digest(folds)})
    write_json(folder / "draws.json", {"sha256": "d" * 64})
    write_json(folder / "phantom.json", truth)
    write_table(folder / "stain.parquet", made_up_profiles(inventory), STAIN_PROFILES)
    crops = {name: made_up_crops(inventory, name, lesions=name == "OM") for name in ("OM", "IM", "TEM")}
    for name, frame in crops.items():
        write_table(folder / f"{name}.parquet", frame, CROPS)
    summarise(predictions, eligible, config, truth).write(folder / "summary")
    staged = task_patients(eligible, "stage")
    told = made_up_predictions(staged, folds, config, "stage")
    summarise(told, staged, config, truth, "stage").write(folder / "stage")
    for task in ("disease", "stage"):
        write_table(folder / f"missing_{task}.parquet", made_up_missing(config, task), MISSING)
    made_up_few_shot(crops["OM"], config).write(folder / "few_shot")
    write_table(folder / "hits.parquet", made_up_hits(), HITS)
    inputs = ReportInputs(
        patients=folder / "patients.parquet",
        inventory=folder / "inventory.parquet",
        stain_profiles=[folder / "stain.parquet"],
        om_store=[(folder / "OM.npy", folder / "OM.parquet")],
        im_store=[(folder / "IM.npy", folder / "IM.parquet")],
        tem_store=[(folder / "TEM.npy", folder / "TEM.parquet")],
        folds=folder / "folds.parquet",
        folds_json=folder / "folds.json",
        histories=made_up_histories(folder, config),
        summary_dir=folder / "summary",
        stage_dir=folder / "stage",
        missing={task: folder / f"missing_{task}.parquet" for task in ("disease", "stage")},
        deposit_hits=folder / "hits.parquet",
        phantom=folder / "phantom.json",
        few_shot_dir=folder / "few_shot",
        few_shot_json=folder / "draws.json",
        revision="0123abc",
    )
    return MadeUpRun(inputs, config, patients, inventory, predictions)


@pytest.fixture(scope="session")
def made_up_run(tmp_path_factory) -> MadeUpRun:
    """Tables of a made-up run of both tracks; no figures."""
    return make_run(tmp_path_factory.mktemp("made-up-run"))


@pytest.fixture
def crops_config() -> Config:
    """A configuration of the glomerulus track alone."""
    return Config(
        run=Run(tracks=["glomeruli"]),
        cohort=Cohort(source="crops", folder="crops", classes=LESIONS),
        evaluation=Evaluation(bootstrap=200),
    )
