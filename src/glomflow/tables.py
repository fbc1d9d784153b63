"""The tables that flow between stages: their columns, units and meaning.

A table is a Parquet file whose columns are declared here; reading or writing one with a missing,
unknown or wrongly typed column is an error. Columns that a table gains by its configuration (a
probability per class) are declared by the writer through ``extra``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from glomflow.errors import GlomflowError
from glomflow.files import atomic_path

IMAGE_STATUSES = (
    "ok",
    "missing_file",
    "unreadable",
    "unsupported_format",
    "no_pixel_size",
    "anisotropic",
    "no_annotation",
    "blank",
    "duplicate_file",
    "poor_quality",
)
"""What can become of an image; every status but ``ok`` excludes it and comes with a reason."""

MODALITIES = ("OM", "IM", "TEM")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        dtype: ``string``, ``int64``, ``float64`` or ``bool``; strings and floats may be missing.
        meaning: What the value says, with its unit.
    """

    dtype: str
    meaning: str


Schema = Mapping[str, Column]

PATIENTS: Schema = {
    "patient": Column("string", "patient identifier"),
    "label": Column("string", "diagnosis, one of cohort.classes"),
    "site": Column("string", "hospital or laboratory"),
    "stage": Column("string", "stage of membranous nephropathy (I, II, III), if known"),
    "shard": Column("int64", "shard that the patient's image jobs run in"),
}

IMAGES: Schema = {
    "image": Column("string", "image identifier, unique in the cohort"),
    "patient": Column("string", "patient identifier"),
    "modality": Column("string", "OM, IM or TEM"),
    "path": Column("string", "file, relative to the cohort folder"),
    "slide": Column("string", "slide or block that the image shows; the image itself if not given"),
    "stain": Column("string", "histological stain (PAS, PASM, HE, ...) of an OM image"),
    "marker": Column("string", "IM: marker, or markers of the channels in order, joined by ';'"),
    "um_per_px": Column("float64", "pixel size given by the sheet, µm/px"),
    "nm_per_px": Column("float64", "pixel size given by the sheet, nm/px"),
    "annotation": Column("string", "outlines of the glomeruli, relative to the cohort folder"),
    "kind": Column("string", "'field': crops are cut from it; 'crop': it is one crop already"),
    "lesion": Column("string", "lesion class of an image that is a crop"),
    "row": Column("int64", "row of the sheet (the header is row 1)"),
    "shard": Column("int64", "shard of the patient"),
}

INVENTORY: Schema = {
    "image": Column("string", "image identifier"),
    "patient": Column("string", "patient identifier"),
    "modality": Column("string", "OM, IM or TEM"),
    "path": Column("string", "file, relative to the cohort folder"),
    "slide": Column("string", "slide identifier"),
    "shard": Column("int64", "shard of the patient"),
    "status": Column("string", "'ok', or why the image is left out"),
    "reason": Column("string", "what is wrong and what to do; empty if ok"),
    "reader": Column("string", "reader that opened the file"),
    "width": Column("int64", "width at full resolution, px (0 if unread)"),
    "height": Column("int64", "height at full resolution, px (0 if unread)"),
    "levels": Column("int64", "resolution levels"),
    "channels": Column("string", "channel names joined by ';'"),
    "dtype": Column("string", "type of the samples"),
    "um_per_px": Column("float64", "pixel size used, µm/px (TEM: nm/px divided by 1000)"),
    "pixel_size_from": Column("string", "'sheet', 'tags', 'sidecar', 'config', or 'none' (ready-made crop)"),
    "sha256": Column("string", "digest of the file"),
    "bytes": Column("int64", "size of the file"),
    "focus": Column("float64", "variance of the Laplacian less that of noise, higher is sharper"),
    "focus_um_per_px": Column("float64", "scale that focus was read at, µm/px (missing: the thumbnail)"),
    "tissue_fraction": Column("float64", "share of the thumbnail that is not background, 0 to 1"),
    "saturated_fraction": Column("float64", "share of samples at the ends of the range, 0 to 1"),
    "pen_fraction": Column("float64", "OM: share of the image that is inked by a felt pen, 0 to 1"),
    "fold_fraction": Column("float64", "OM: share of the image in folds and their shadows, 0 to 1"),
    "signal_to_noise": Column("float64", "IM: signal of the best marker over the noise"),
    "overexposed_fraction": Column("float64", "IM: share of pixels clipped, of the worst marker, 0 to 1"),
    "bleached_fraction": Column("float64", "IM: share of the image that was exposed before, 0 to 1"),
    "drift": Column("float64", "TEM: smear along one direction, 0 to 1"),
    "contaminated_fraction": Column("float64", "TEM: share of the image that is dirt, 0 to 1"),
    "blank_fraction": Column("float64", "TEM: share of the image that is bright and empty, 0 to 1"),
    "quality": Column("string", "'' or flags of poor quality joined by ';', see docs/quality.md"),
    "thumbnail": Column("string", "thumbnail JPEG, relative to the inventory's folder"),
}

STAIN_PROFILES: Schema = {
    "slide": Column("string", "slide identifier"),
    "method": Column("string", "macenko, vahadane, reinhard or none"),
    "matrix": Column(
        "string",
        "JSON: 2x3 or 3x3 stain matrix, rows unit optical-density vectors (macenko, vahadane); the unit "
        "matrix where only the white level is matched",
    ),
    "concentrations": Column("string", "JSON: 99th percentile concentration of each row of the matrix"),
    "lab_mean": Column("string", "JSON: mean of L*, a*, b* over tissue (reinhard)"),
    "lab_std": Column("string", "JSON: standard deviation of L*, a*, b* over tissue (reinhard)"),
    "background": Column("string", "JSON: white level of R, G, B, 0-255"),
    "tissue_pixels": Column("int64", "tissue pixels that the profile rests on"),
    "flag": Column("string", "'' if usable; else why crops of this slide pass through unchanged"),
}

FINDER_IMAGES: Schema = {
    "image": Column("string", "image identifier"),
    "patient": Column("string", "patient identifier"),
    "slide": Column("string", "slide identifier"),
    "path": Column("string", "file, relative to the cohort folder"),
    "annotation": Column("string", "outlines of its glomeruli, relative to the cohort folder"),
    "um_per_px": Column("float64", "pixel size, µm/px"),
    "width": Column("int64", "width at full resolution, px"),
    "height": Column("int64", "height at full resolution, px"),
}
"""OM images with outlines: what the finder learns from and is tested on."""

FINDER_FOLDS: Schema = {
    "fold": Column("string", "fold of the finder, from '0'; 'all': the finder that is used afterwards"),
    "image": Column("string", "image identifier"),
    "split": Column("string", "train, validation or test"),
}

FINDER_TRAINING: Schema = {**FINDER_IMAGES, "split": Column("string", "train or validation")}
"""What training a finder gets of a fold: there is no test image in it."""

SEARCHED: Schema = {
    "image": Column("string", "image identifier"),
    "patient": Column("string", "patient identifier"),
    "slide": Column("string", "slide identifier"),
    "fold": Column("string", "fold of the finder that searched it; 'all': an image without outlines"),
    "glomeruli": Column("int64", "glomeruli found"),
    "reason": Column("string", "why it could not be searched; empty if it was"),
    "geojson": Column("string", "what was found, relative to the folder of the shard"),
}
"""One row per OM image that the finder was to search, also where it found nothing."""

FOUND: Schema = {
    "image": Column("string", "image identifier"),
    "patient": Column("string", "patient identifier"),
    "slide": Column("string", "slide identifier"),
    "fold": Column("string", "fold of the finder that found it; 'all': in an image without outlines"),
    "glomerulus": Column("string", "identifier, unique in the cohort"),
    "x": Column("float64", "left edge in the image at full resolution, px"),
    "y": Column("float64", "top edge in the image at full resolution, px"),
    "width": Column("float64", "width in the image at full resolution, px"),
    "height": Column("float64", "height in the image at full resolution, px"),
    "area_um2": Column("float64", "area, µm²"),
    "score": Column("float64", "mean probability over its area, 0 to 1"),
    "at_border": Column("bool", "whether the border of the image cuts it"),
    "points": Column("string", "JSON: x and y of the outline, full-resolution px"),
}
"""One row per glomerulus that the finder found."""

CROPS: Schema = {
    "row": Column("int64", "row of the memory map"),
    "crop": Column("string", "crop identifier, unique in the cohort"),
    "patient": Column("string", "patient identifier"),
    "image": Column("string", "image identifier"),
    "slide": Column("string", "slide identifier"),
    "modality": Column("string", "OM, IM or TEM"),
    "x": Column("float64", "left edge in the image at full resolution, px"),
    "y": Column("float64", "top edge in the image at full resolution, px"),
    "width": Column("float64", "width in the image at full resolution, px"),
    "height": Column("float64", "height in the image at full resolution, px"),
    "um_per_px": Column("float64", "pixel size of the stored crop, µm/px (missing for ready-made crops)"),
    "lesion": Column("string", "lesion class from the annotation, if any"),
    "information": Column("float64", "information score, higher first; comparable within a modality"),
    "selected": Column("bool", "whether the diagnosis track uses this crop"),
    "flag": Column("string", "'' or notes, joined by ';': stain_unchanged, at_border, padded, dark, ..."),
}

FOLDS: Schema = {
    "fold": Column("int64", "outer fold, from 0; numbers run on over repeats"),
    "repeat": Column("int64", "repeat of the cross-validation, from 0"),
    "patient": Column("string", "patient identifier"),
    "split": Column("string", "train, validation or test"),
}

TRAINING: Schema = {
    "patient": Column("string", "patient identifier"),
    "split": Column("string", "train or validation"),
    "label": Column("string", "what is to be learned: the diagnosis, or the stage"),
}
"""What a training job gets of a fold and task: there is no test patient in it."""

TEST: Schema = {"patient": Column("string", "patient identifier")}
"""What a prediction job gets of a fold and task."""

EXCLUDED: Schema = {
    "patient": Column("string", "patient identifier"),
    "reason": Column("string", "why the patient takes no part"),
}

PREDICTIONS: Schema = {
    "patient": Column("string", "patient identifier"),
    "model": Column("string", "name of the model in the configuration"),
    "fold": Column("int64", "outer fold"),
    "seed": Column("int64", "training seed"),
    "predicted": Column("string", "class of highest probability"),
    "modalities": Column("string", "modalities that the patient had, joined by '+'"),
}
"""One row per patient, model, repeat and seed; plus ``p_<class>`` columns, probabilities that sum to 1."""

SUBSETS: Schema = {
    "patient": Column("string", "patient identifier"),
    "model": Column("string", "name of the model in the configuration"),
    "fold": Column("int64", "outer fold"),
    "seed": Column("int64", "training seed"),
    "subset": Column("string", "modalities shown to the model, joined by '+' in the order OM, IM, TEM"),
}
"""Test patients predicted from fewer modalities than they have; plus ``p_<class>`` columns.

One row per patient, model, fold, seed and non-empty subset of those of the model's modalities that the
patient has; the longest subset is all of these. Patients who have none of them have no row; models of one
modality and those fitted to pooled features are left out.
"""

INSTANCES: Schema = {
    "patient": Column("string", "patient identifier"),
    "model": Column("string", "name of the model"),
    "fold": Column("int64", "outer fold"),
    "seed": Column("int64", "training seed"),
    "modality": Column("string", "OM, IM or TEM"),
    "crop": Column("string", "crop identifier"),
    "rank": Column("int64", "place in the bag, from 0, by information"),
    "weight": Column("float64", "weight of the instance in the bag's sum; 0 if filtered out"),
    "kept": Column("bool", "whether the instance passed the filter"),
}
"""One row per test patient, model, seed and instance of a modality that the model pools."""

FEW_SHOT: Schema = {
    "method": Column("string", "one of few_shot.methods, or an adapted model's name"),
    "shots": Column("int64", "labelled crops per class"),
    "run": Column("int64", "run, from 0"),
    "crop": Column("string", "test crop identifier"),
    "slide": Column("string", "slide of the crop"),
    "label": Column("string", "true class"),
    "predicted": Column("string", "class of highest probability"),
    "own_cosine": Column("float64", "cosine between image and its class's text; missing without a text"),
    "cosine_gap": Column("float64", "the same less the mean cosine to the other classes; or missing"),
    "silhouette": Column("float64", "silhouette of the adapted feature among the test crops; or missing"),
}
"""One row per method, shots, run and test crop; plus ``p_<class>`` columns."""

FEW_SHOT_SPACE = ("own_cosine", "cosine_gap", "silhouette")
"""Columns of FEW_SHOT that only models with a shared space of images and texts have."""

GEOMETRY: Schema = {
    "method": Column("string", "name of the adapted model"),
    "shots": Column("int64", "labelled crops per class"),
    "run": Column("int64", "run, from 0"),
    "epochs": Column("int64", "epochs of which the weights are; 0 where nothing is trained by epochs"),
    "validation_auc": Column("float64", "macro AUC on validation crops; missing without selection"),
    "temperature": Column("float64", "temperature fitted on validation crops; missing without them"),
    "scaled_ece": Column("float64", "calibration error on test crops after temperature scaling; or missing"),
    "umap_text_distance": Column(
        "float64", "distance of classes and their texts in UMAP's plane; or missing"
    ),
}
"""One row per adapted model, shots and run: what was selected, and what only a whole run has."""

SIMILARITY: Schema = {
    "row": Column("int64", "row of the maps"),
    "crop": Column("string", "test crop identifier"),
    "slide": Column("string", "slide of the crop"),
    "label": Column("string", "true class"),
    "predicted": Column("string", "class whose text has the highest cosine with the image"),
    "x": Column("float64", "left edge of what the model sees of the crop, px of the crop"),
    "y": Column("float64", "upper edge of it, px of the crop"),
    "width": Column("float64", "its width, px of the crop"),
    "height": Column("float64", "its height, px of the crop"),
}
"""One row per test crop whose patches are compared with texts; plus ``c_<class>``, cosines of the image."""


def _typed(frame: pd.DataFrame, columns: Schema, name: str) -> pd.DataFrame:
    missing = [column for column in columns if column not in frame.columns]
    unknown = [column for column in frame.columns if column not in columns]
    if missing or unknown:
        raise GlomflowError(
            f"table {name}: "
            + "; ".join(
                part
                for part in (
                    f"missing column {', '.join(map(repr, missing))}" if missing else "",
                    f"unknown column {', '.join(map(repr, unknown))}" if unknown else "",
                )
                if part
            )
        )
    typed = {}
    for column, spec in columns.items():
        try:
            dtype: Any = "str" if spec.dtype == "string" else spec.dtype
            typed[column] = frame[column].astype(dtype)
        except (TypeError, ValueError) as error:
            raise GlomflowError(f"table {name}, column '{column}': not {spec.dtype} ({error})") from error
    return pd.DataFrame(typed, columns=list(columns))


def write_table(
    path: str | os.PathLike[str], frame: pd.DataFrame, schema: Schema, extra: Schema | None = None
) -> None:
    """Writes a table as Parquet, atomically, after checking it against its schema.

    Args:
        path: Target file.
        frame: The rows; an empty frame without columns is allowed and gets the schema's columns.
        schema: The declared columns.
        extra: Columns that this table has beyond the schema.

    Raises:
        GlomflowError: A column is missing, unknown or of the wrong type.
    """
    columns = {**schema, **(extra or {})}
    if frame.empty and not len(frame.columns):
        frame = pd.DataFrame({column: [] for column in columns})
    frame = _typed(frame, columns, str(path))
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False, engine="pyarrow", write_page_checksum=True)


def read_table(
    path: str | os.PathLike[str], schema: Schema, extra: Schema | None = None, *, open_ended: bool = False
) -> pd.DataFrame:
    """Reads a table and checks it against its schema.

    Args:
        path: Parquet file.
        schema: The declared columns.
        extra: Columns that this table has beyond the schema.
        open_ended: Allow (and keep) further columns, such as ``p_<class>``.

    Returns:
        The rows, with the schema's dtypes; missing strings are NaN.

    Raises:
        GlomflowError: The file cannot be read, or a column is missing, unknown or of the wrong type.
    """
    try:
        frame = pd.read_parquet(path, engine="pyarrow", page_checksum_verification=True)
    except (OSError, ValueError) as error:
        raise GlomflowError(f"table {path}: cannot be read ({error}); delete it and run again") from error
    columns = {**schema, **(extra or {})}
    if open_ended:
        further = [column for column in frame.columns if column not in columns]
        return pd.concat(
            [_typed(frame[list(set(frame.columns) & set(columns))], columns, str(path)), frame[further]],
            axis=1,
        )
    return _typed(frame, columns, str(path))


def write_tables(
    folder: str | os.PathLike[str], frames: Mapping[str, pd.DataFrame], schemas: Mapping[str, Schema]
) -> None:
    """Writes the tables of an evaluation, each as ``<name>.parquet``.

    Args:
        folder: Where to.
        frames: The tables by name.
        schemas: Their declared columns.
    """
    for name, schema in schemas.items():
        write_table(Path(folder) / f"{name}.parquet", frames[name], schema)


def read_tables(folder: str | os.PathLike[str], schemas: Mapping[str, Schema]) -> dict[str, pd.DataFrame]:
    """Reads what :func:`write_tables` wrote.

    Raises:
        GlomflowError: A file is missing or does not hold what it should.
    """
    absent = [f"{name}.parquet" for name in schemas if not (Path(folder) / f"{name}.parquet").is_file()]
    if absent:
        raise GlomflowError(f"evaluation {folder}: missing {', '.join(absent)}; run the evaluation again")
    return {name: read_table(Path(folder) / f"{name}.parquet", schema) for name, schema in schemas.items()}


def probability_columns(classes: list[str]) -> dict[str, Column]:
    """Returns the ``p_<class>`` columns of a predictions table."""
    return {f"p_{name}": Column("float64", f"probability of {name}, 0 to 1") for name in classes}


SITE_LEVELS: Schema = {
    "site": Column("string", "hospital or laboratory"),
    "channel": Column("string", "red, green or blue; of crops of one marker, the marker"),
    "crops": Column("int64", "training crops of the site that show signal in the channel"),
    "level": Column("float64", "brightness of their signal, drawn towards that of all sites, 0 to 1"),
    "gain": Column("float64", "factor that brings the level to that of all sites"),
}
"""One row per site and channel of immunofluorescence crops; a site without a row is left as it is."""
