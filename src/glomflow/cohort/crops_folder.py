"""A folder of ready-made glomerulus crops with a sheet of labels, for the glomerulus track."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from glomflow.cohort.disk import folder_checks
from glomflow.cohort.sheet_file import Sheet, as_table, read_sheet
from glomflow.cohort.sheets import UNKNOWN_SITE, check_choice, check_image_files, shards_of
from glomflow.errors import CohortError
from glomflow.tables import IMAGES, PATIENTS

REQUIRED_COLUMNS = ("image", "label", "slide")
OPTIONAL_COLUMNS = ("patient", "mask", "stain", "site", "url", "sha256")


def read_crops_folder(
    folder: Path, labels_csv: str, *, classes: list[str], shards: int, check_files: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads and checks a folder of crops.

    Args:
        folder: Folder of the crops.
        labels_csv: Sheet with the columns ``image, label, slide[, patient, mask, stain, site, url, sha256]``,
            one row per crop. ``patient`` defaults to the slide; ``mask`` is an outline or label mask of the
            crop; ``site`` is the hospital or laboratory of the patient.
        classes: The lesion classes; each needs at least one crop.
        shards: Number of shards.
        check_files: Whether to look at the files that the sheet names, too.

    Returns:
        The tables PATIENTS (in order of first mention, without labels or stages) and IMAGES (modality
        OM, kind 'crop', lesion the label).

    Raises:
        CohortError: All problems of the sheet.
    """
    sheet = read_sheet(folder, labels_csv, required=REQUIRED_COLUMNS, optional=OPTIONAL_COLUMNS)
    sheet.require_cells(REQUIRED_COLUMNS)
    frame = sheet.frame
    frame["patient"] = frame["patient"].where(frame["patient"] != "", frame["slide"])
    _check_labels(sheet, classes)
    _check_sites(sheet)
    check_image_files(sheet, "image", folder_checks(folder) if check_files else None, mask="mask")
    if sheet.problems:
        raise CohortError(sheet.sorted_problems())
    return _patients_table(frame, shards), _images_table(frame, shards)


def _check_labels(sheet: Sheet, classes: list[str]) -> None:
    if "label" not in sheet.present:
        return
    check_choice(sheet, "label", classes, f"not one of cohort.classes ({', '.join(classes)})")
    found = set(sheet.frame["label"])
    for name in classes:
        if name not in found:
            advice = (
                f"no crop has the label '{name}', one of cohort.classes; add crops or take the class out "
                "of cohort.classes"
            )
            sheet.add(None, "label", None, advice)


def _check_sites(sheet: Sheet) -> None:
    """Checks that a patient is of one site, whichever rows name it."""
    frame = sheet.frame
    named = frame[frame["site"] != ""]
    first = named.groupby("patient")["site"].first()
    for _, row in named[named["site"] != named["patient"].map(first)].iterrows():
        advice = (
            f"patient '{row['patient']}' is of site '{first[row['patient']]}' above; correct the site or the "
            "patient"
        )
        sheet.add(int(row["row"]), "site", row["site"], advice)


def _patients_table(frame: pd.DataFrame, shards: int) -> pd.DataFrame:
    patients = frame["patient"].drop_duplicates()
    sites = frame["site"].replace("", None).groupby(frame["patient"]).first().astype("str")
    missing = pd.Series("", index=patients.index, dtype="str")
    columns = {
        "patient": patients,
        "label": missing,
        "site": patients.map(sites).fillna(UNKNOWN_SITE),
        "stage": missing,
        "shard": shards_of(patients, shards),
    }
    return as_table(columns, PATIENTS)


def _images_table(frame: pd.DataFrame, shards: int) -> pd.DataFrame:
    empty = pd.Series("", index=frame.index, dtype="str")
    unknown = pd.Series(float("nan"), index=frame.index)
    columns = {
        **{name: frame[name] for name in ("patient", "slide", "stain", "row")},
        "image": frame["id"],
        "path": frame["image"],
        "modality": empty.replace("", "OM"),
        "marker": empty,
        "um_per_px": unknown,
        "nm_per_px": unknown,
        "annotation": frame["mask"],
        "kind": empty.replace("", "crop"),
        "lesion": frame["label"],
        "shard": shards_of(frame["patient"], shards),
    }
    return as_table(columns, IMAGES)
