"""The cohort's two sheets, ``patients.csv`` and ``images.csv``, checked as a whole.

All problems are listed at once, each with its sheet, row, column, value and what to do.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from glomflow.cohort.addresses import COLUMNS as ADDRESS_COLUMNS
from glomflow.cohort.addresses import check_addresses
from glomflow.cohort.disk import CohortFolder, check_listed_once, check_not_shared, check_paths, folder_checks
from glomflow.cohort.sheet_file import Sheet, as_table, first_of, read_sheet
from glomflow.errors import CohortError
from glomflow.suggest import did_you_mean, nearest, nearest_numbered
from glomflow.tables import IMAGES, MODALITIES, PATIENTS

PATIENT_COLUMNS = ("patient", "label", "site")
IMAGE_COLUMNS = ("patient", "modality", "path")
OPTIONAL_IMAGE_COLUMNS = (
    "slide",
    "stain",
    "marker",
    "um_per_px",
    "nm_per_px",
    "annotation",
    "kind",
    "lesion",
)
KINDS = ("field", "crop")
STAGES = ("I", "II", "III")
STAGED_LABEL = "MN"
UNKNOWN_SITE = "unknown"
MAX_ID_BYTES = 200
"""Thumbnails and crops are named after the image; file systems allow names of 255 bytes."""
MAX_SHARDS = 10_000
"""Shards are named by four digits."""

_MODALITY_WORDS = {
    "LM": "OM",
    "LIGHT": "OM",
    "IF": "IM",
    "DIF": "IM",
    "IMMUNOFLUORESCENCE": "IM",
    "EM": "TEM",
    "ELECTRON": "TEM",
}
_STAGE_WORDS = {"1": "I", "2": "II", "3": "III"}
_MAX_SUGGESTIONS = 20


def read_cohort(
    folder: Path,
    patients_csv: str,
    images_csv: str,
    *,
    classes: list[str],
    n_splits: int,
    shards: int,
    check_classes: bool = True,
    shard: int | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads and checks the cohort's sheets.

    Every value is read as text, trimmed of surrounding blanks. Files must exist in the cohort folder;
    what is in them is ingestion's concern, except that two patients may not share one.

    Args:
        folder: The cohort folder.
        patients_csv: Sheet with the columns ``patient, label, site[, stage]``; an empty site becomes
            'unknown', and a stage belongs to the label MN only.
        images_csv: Sheet with ``patient, modality, path[, slide, stain, marker, um_per_px, nm_per_px,
            annotation, kind, lesion, url, sha256]``; ``slide`` defaults to the image's identifier, ``kind``
            to 'field'.
        classes: The labels.
        n_splits: Outer folds; every class needs as many patients.
        shards: Number of shards.
        check_classes: Whether labels are needed, have to be among ``classes``, and have to suffice for
            the folds. Without it (glomerulus track) a label may be anything or empty.
        shard: Read the images of this shard's patients alone, and leave files alone; without it all.

    Returns:
        The tables PATIENTS and IMAGES, in sheet order, those of the shard if one is named. Empty optional
        cells are missing values.

    Raises:
        CohortError: All problems of both sheets.
    """
    patient_columns = PATIENT_COLUMNS if check_classes else ("patient", "site")
    optional = ("stage",) if check_classes else ("label", "stage")
    patients = read_sheet(folder, patients_csv, required=patient_columns, optional=optional)
    own = None if shard is None else _in_shard(shard, shards)
    optional_columns = (*OPTIONAL_IMAGE_COLUMNS, *ADDRESS_COLUMNS)
    images = read_sheet(folder, images_csv, required=IMAGE_COLUMNS, optional=optional_columns, keep=own)
    _check_patients(patients, classes if check_classes else None)
    if check_classes and {"patient", "label"} <= patients.present:
        _check_class_sizes(patients, classes, n_splits)
    if own is not None:
        patients.frame = patients.frame[patients.frame["patient"].map(own).astype(bool)].reset_index(
            drop=True
        )
    _check_images(images)
    _check_belonging(patients, images)
    check_image_files(images, "path", folder_checks(folder) if own is None else None)
    problems = [*patients.sorted_problems(), *images.sorted_problems()]
    if problems:
        raise CohortError(problems)
    return _patients_table(patients.frame, shards), _images_table(images.frame, shards)


def image_id(path: str) -> str:
    """Returns the identifier of an image: its path without suffix, '/' replaced by '__'.

    Args:
        path: Path in the cohort folder, with '/'. Of a double suffix such as '.ome.tif' both parts go.
    """
    stem = path[: path.rindex(".")] if "." in path.rsplit("/", 1)[-1].lstrip(".") else path
    if stem.lower().endswith(".ome"):
        stem = stem[:-4]
    return stem.replace("/", "__")


def shard_of(patient: str, shards: int) -> int:
    """Returns the shard of a patient, 0 to ``shards`` - 1, by a stable hash of the identifier."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") % shards


def _in_shard(shard: int, shards: int) -> Callable[[str], bool]:
    return functools.cache(lambda patient: shard_of(patient, shards) == shard)


def recommended_shards(patients: int) -> int:
    """Returns a number of shards that suits a cohort.

    About 25 patients to a shard up to 1,000 patients, 50 at 10,000 and 100 at 100,000: jobs stay minutes
    long, and their number grows more slowly than the cohort.

    Args:
        patients: Patients that the cohort will have once it has grown.

    Returns:
        The number, to two significant digits; 1 to :data:`MAX_SHARDS`.
    """
    exact = patients / 25 if patients <= 1000 else 40 * (patients / 1000) ** 0.7
    digits = max(0, len(str(int(exact))) - 2)
    return min(MAX_SHARDS, max(1, int(round(exact, -digits))))


def shards_advice(patients: int, shards: int) -> str:
    """Returns what to say about a number of shards; '' if it is within a factor of 4 of the recommended one.

    Args:
        patients: Patients of the cohort.
        shards: ``run.shards``.
    """
    best = recommended_shards(patients)
    if best <= 4 * shards and shards <= 4 * best:
        return ""
    return (
        f"run.shards: {shards} puts about {patients / shards:.0f} patients into a job; about {best} shards "
        "suit this cohort. Another number redoes all image stages (docs/scale.md)"
    )


def shards_of(patients: pd.Series, shards: int) -> pd.Series:
    """Returns the shard of every row's patient."""
    return patients.map({patient: shard_of(patient, shards) for patient in patients.unique()})


def check_image_files(
    sheet: Sheet, column: str, folder: CohortFolder | None, mask: str = "annotation"
) -> None:
    """Checks what sheets of images and of crops have in common: files, identifiers and slides.

    Adds ``id``, the images' identifiers, to the sheet's frame and fills the empty cells of ``slide`` with it.

    Args:
        sheet: The sheet, with columns ``patient``, ``slide``, ``url``, ``sha256``, ``column`` and ``mask``.
        column: Column of image files.
        folder: The cohort folder; None leaves the files alone.
        mask: Column of annotation files.
    """
    check_addresses(sheet)
    sizes = None if folder is None else check_paths(sheet, column, folder, images=True)
    first = check_listed_once(sheet, column)
    if folder is not None and sizes is not None:
        check_paths(sheet, mask, folder)
        check_not_shared(sheet, column, sizes, first, folder)
    frame = sheet.frame
    frame["id"] = frame[column].map({path: image_id(path) for path in frame[column].unique()}).astype("str")
    _check_ids(sheet, column, first)
    frame["slide"] = frame["slide"].where(frame["slide"] != "", frame["id"])
    _check_slides(sheet)


def check_choice(sheet: Sheet, column: str, allowed: Sequence[str], advice: str) -> None:
    """Adds a problem for every filled cell that is none of the allowed values.

    Args:
        sheet: The sheet.
        column: Its column.
        allowed: Allowed values.
        advice: What the values are, such as "modalities are OM, IM and TEM".
    """
    values = sheet.frame[column]
    wrong = ~values.isin([*allowed, ""])
    sheet.flag(wrong, column, lambda value: advice + did_you_mean(value, allowed, 0.5))


def _check_patients(sheet: Sheet, classes: list[str] | None) -> None:
    frame = sheet.frame
    sheet.require_cells(("patient", "label") if classes is not None else ("patient",))
    labels, rows = first_of(frame, "patient", "label"), first_of(frame, "patient", "row")
    again = frame[frame.duplicated("patient") & (frame["patient"] != "")]
    for patient, label, row in zip(again["patient"], again["label"], again["row"], strict=True):
        earlier, earlier_row = labels[patient], rows[patient]
        if label == earlier:
            sheet.add(
                row, "patient", patient, f"row {earlier_row} lists this patient already; delete one of them"
            )
        else:
            sheet.add(
                row,
                "label",
                label or None,
                f"patient '{patient}' has conflicting labels: '{earlier}' in row {earlier_row}, '{label}' "
                "here; keep the row that is right and delete the other",
            )
    if classes is not None:
        check_choice(sheet, "label", classes, f"not one of cohort.classes ({', '.join(classes)})")
    _check_stages(sheet)


def _check_stages(sheet: Sheet) -> None:
    frame = sheet.frame
    given = frame["stage"] != ""
    wrong = given & ~frame["stage"].isin(STAGES)

    def advice(value: str) -> str:
        right = _STAGE_WORDS.get(value) or nearest(value, STAGES)
        return "the stage is I, II or III, or empty" + (f"; write '{right}'" if right else "")

    sheet.flag(wrong, "stage", advice)
    if "label" in sheet.present:
        elsewhere = given & ~wrong & (frame["label"] != STAGED_LABEL)
        sheet.flag(
            elsewhere,
            "stage",
            f"only patients with label '{STAGED_LABEL}' have a stage; empty the cell or correct the label",
        )


def _check_class_sizes(sheet: Sheet, classes: list[str], n_splits: int) -> None:
    patients = sheet.frame.drop_duplicates("patient")
    counts = patients["label"].value_counts()
    for name in classes:
        count = int(counts.get(name, 0))
        if count == 0:
            sheet.add(
                None,
                "label",
                None,
                f"no patient has the label '{name}', one of cohort.classes; add patients or take the "
                "class out of cohort.classes",
            )
        elif count < n_splits:
            fewer = f"set folds.n_splits to {count} or fewer, " if count > 1 else ""
            sheet.add(
                None,
                "label",
                None,
                f"class '{name}' has {count} patient{'s' if count > 1 else ''}, fewer than the {n_splits} "
                f"folds; {fewer}add patients, or take the class out of cohort.classes",
            )


def _check_images(sheet: Sheet) -> None:
    frame = sheet.frame
    sheet.require_cells(IMAGE_COLUMNS)

    def modality_advice(value: str) -> str:
        right = _MODALITY_WORDS.get(value.upper()) or nearest(value, MODALITIES, 0.5)
        told = f"; write '{right}'" if right else ""
        capitals = " (in capitals)" if value.upper() in MODALITIES else ""
        return f"unknown modality; the modalities are {', '.join(MODALITIES)}{told}{capitals}"

    sheet.flag(~frame["modality"].isin([*MODALITIES, ""]), "modality", modality_advice)
    _check_pixel_sizes(sheet)
    check_choice(sheet, "kind", KINDS, "the kind is 'field' (crops are cut from it) or 'crop' (it is one)")
    frame["kind"] = frame["kind"].where(frame["kind"] != "", "field")
    sheet.flag(
        (frame["modality"] == "TEM") & (frame["annotation"] != ""),
        "annotation",
        "TEM images are tiled and take no annotation; empty the cell",
    )
    sheet.flag(
        (frame["lesion"] != "") & (frame["kind"] == "field"),
        "lesion",
        "only an image that is one crop has a lesion class; write 'crop' in column 'kind', or put lesions "
        "of a field into its annotation",
    )


def _check_pixel_sizes(sheet: Sheet) -> None:
    frame = sheet.frame
    tem, optical = frame["modality"] == "TEM", frame["modality"].isin(["OM", "IM"])
    for column, right, factor, wrong_rows in (
        ("um_per_px", "nm_per_px", 1000.0, tem),
        ("nm_per_px", "um_per_px", 0.001, optical),
    ):
        text = frame[column]
        given = text != ""
        number = pd.to_numeric(text.where(given), errors="coerce")
        numeric = number.notna() & np.isfinite(number)
        sheet.flag(given & ~numeric, column, _number_advice)
        sheet.flag(numeric & (number <= 0), column, "a pixel size is greater than 0; correct or empty it")
        frame[f"{column}_value"] = number
        misplaced = numeric & (number > 0) & wrong_rows
        rows = frame.assign(number=number)[misplaced]
        for row, value, size, modality in zip(
            rows["row"], rows[column], rows["number"], rows["modality"], strict=True
        ):
            sheet.add(
                row,
                column,
                value,
                f"{modality} images take their pixel size from column '{right}'; write {size * factor:g} "
                "there and empty this cell",
            )


def _number_advice(value: str) -> str:
    point = value.replace(",", ".")
    if "," in value and point.replace(".", "", 1).isdigit():
        return f"not a number; use a decimal point: {point}"
    return "not a number; write the pixel size as digits, such as 0.25, without its unit"


def _check_belonging(patients: Sheet, images: Sheet) -> None:
    if "patient" not in patients.present or "patient" not in images.present:
        return
    known = pd.Index(patients.frame["patient"].unique())
    owners = images.frame["patient"]
    unknown = ~owners.isin(known) & (owners != "")
    wrong = owners[unknown].unique()[:_MAX_SUGGESTIONS].tolist()
    hints = {name: nearest_numbered(name, known) for name in wrong}

    def unknown_advice(value: str) -> str:
        right = hints.get(value)
        told = f"did you mean '{right}'?" if right else "add a row there or correct the identifier"
        return f"the patient is not in {patients.name}; {told}"

    images.flag(unknown, "patient", unknown_advice)
    named = patients.frame["patient"]
    patients.flag(
        ~named.isin(owners) & (named != "") & ~patients.frame.duplicated("patient"),
        "patient",
        f"the patient has no row in {images.name}; add the images or delete this row",
    )


def _check_ids(sheet: Sheet, column: str, first: pd.Series) -> None:
    frame = sheet.frame
    long = frame["id"].map(lambda name: len(name.encode())) > MAX_ID_BYTES
    sheet.flag(long, column, f"the path is longer than {MAX_ID_BYTES} bytes; shorten folder or file names")
    named = frame[first & (frame["id"] != "")]
    again = named[named.duplicated("id")]
    named = named[named["id"].isin(again["id"])]
    paths, rows = first_of(named, "id", column), first_of(named, "id", "row")
    for image, row, path in zip(again["id"], again["row"], again[column], strict=True):
        sheet.add(
            int(row),
            column,
            path,
            f"the image would have the same identifier, '{image}', as '{paths[image]}' in row "
            f"{rows[image]} (suffixes do not count, '/' becomes '__'); rename one file",
        )


def _check_slides(sheet: Sheet) -> None:
    frame = sheet.frame[(sheet.frame["slide"] != "") & (sheet.frame["patient"] != "")]
    pairs = frame.drop_duplicates(["slide", "patient"])
    again = pairs[pairs.duplicated("slide")]
    pairs = pairs[pairs["slide"].isin(again["slide"])]
    owners, rows = first_of(pairs, "slide", "patient"), first_of(pairs, "slide", "row")
    for slide, patient, row in zip(again["slide"], again["patient"], again["row"], strict=True):
        sheet.add(
            int(row),
            "slide",
            slide,
            f"the slide is named for patient '{owners[slide]}' in row {rows[slide]} and for patient "
            f"'{patient}' here; a slide belongs to one patient: correct it, or tell the slides apart as "
            f"'{patient}-{slide}'",
        )


def _patients_table(frame: pd.DataFrame, shards: int) -> pd.DataFrame:
    columns = {
        **frame,
        "site": frame["site"].where(frame["site"] != "", UNKNOWN_SITE),
        "shard": shards_of(frame["patient"], shards),
    }
    return as_table(columns, PATIENTS)


def _images_table(frame: pd.DataFrame, shards: int) -> pd.DataFrame:
    columns = {
        **frame,
        "image": frame["id"],
        "um_per_px": frame["um_per_px_value"],
        "nm_per_px": frame["nm_per_px_value"],
        "shard": shards_of(frame["patient"], shards),
    }
    return as_table(columns, IMAGES)
