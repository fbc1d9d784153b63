"""Importer of the published folder layout ``class/patient/Modality_Disease_Patient_name.jpg``.

It writes the two sheets and moves no image. What a file shows is told by the first part of its name
alone: ``OM`` a segmented glomerulus (kind 'crop'), ``OM-ori`` the unsegmented field, ``IM``, ``TEM``.
Every other beginning is an error. ``OM-ori`` fields are listed only for patients without a segmented
glomerulus, since they show the same tissue again; such a field then needs an outline in column
``annotation``. Pixel sizes are not part of the layout: fill the columns ``um_per_px`` and
``nm_per_px``, or ``imaging.ingest``. Sites and stains are left empty.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glomflow.cohort.sheets import IMAGE_COLUMNS, OPTIONAL_IMAGE_COLUMNS, PATIENT_COLUMNS
from glomflow.errors import CohortError, GlomflowError, Problem
from glomflow.files import write_text
from glomflow.suggest import nearest

PREFIXES = {"OM": ("OM", "crop"), "OM-ori": ("OM", "field"), "IM": ("IM", "field"), "TEM": ("TEM", "field")}
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
SHEETS = ("patients.csv", "images.csv")
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class _Found:
    """An image of the layout: its class, patient, file and what its name's beginning says."""

    label: str
    patient: str
    path: Path
    prefix: str


def import_published(source: Path, out: Path) -> None:
    """Writes ``patients.csv`` and ``images.csv`` for a folder in the published layout.

    Args:
        source: The folder of class folders.
        out: The cohort folder that the sheets go to: ``source`` itself or a folder above it.

    Raises:
        CohortError: Files with an unknown prefix, stray files, empty folders or a patient in two
            classes; all of them listed.
        GlomflowError: ``out`` does not hold ``source``, or holds other sheets already.
    """
    if not source.is_dir():
        raise GlomflowError(f"{source}: there is no such folder; name the folder of class folders")
    if not source.resolve().is_relative_to(out.resolve()):
        raise GlomflowError(
            f"{out}: the sheets must lie in the cohort folder, which is {source} or a folder above it; "
            "write them there"
        )
    problems: list[Problem] = []
    found = _scan(source, problems)
    _check_names(found, source, problems)
    if problems:
        raise CohortError(problems)
    prefix = source.resolve().relative_to(out.resolve())
    texts = {
        "patients.csv": _csv_text(PATIENT_COLUMNS, _patient_rows(found)),
        "images.csv": _csv_text(
            (*IMAGE_COLUMNS, *OPTIONAL_IMAGE_COLUMNS), _image_rows(found, source, prefix)
        ),
    }
    for name, text in texts.items():
        if (out / name).exists() and (out / name).read_text(encoding="utf-8") != text:
            raise GlomflowError(
                f"{out / name}: there is a sheet already, with other content; delete or rename it to "
                "import the folder again"
            )
    for name, text in texts.items():
        write_text(out / name, text)


def _visible(folder: Path, also_ignored: frozenset[str] = frozenset()) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".")
        and path.name.lower() not in _SYSTEM_FILES
        and path.name not in also_ignored
    )


def _folders(parent: Path, source: Path, what: str, problems: list[Problem]) -> list[Path]:
    folders = []
    for path in _visible(parent, frozenset(SHEETS) if parent == source else frozenset()):
        if path.is_dir():
            folders.append(path)
        else:
            advice = f"a stray file; only {what} folders belong here: move or delete it"
            problems.append(Problem(_relative(path, source), None, None, None, advice))
    if not folders:
        advice = f"there is no {what} folder in it; images lie in class/patient/"
        problems.append(Problem(_relative(parent, source), None, None, None, advice))
    return folders


def _relative(path: Path, source: Path) -> str:
    return path.relative_to(source).as_posix() if path != source else str(source)


def _scan(source: Path, problems: list[Problem]) -> list[_Found]:
    found: list[_Found] = []
    for label in _folders(source, source, "class", problems):
        for patient in _folders(label, source, "patient", problems):
            images = _visible(patient)
            if not images:
                advice = "the patient's folder is empty; add the images or delete it"
                problems.append(Problem(_relative(patient, source), None, None, None, advice))
            for path in images:
                prefix, advice = _read_name(path)
                if advice:
                    problems.append(Problem(_relative(path, source), None, None, None, advice))
                else:
                    found.append(_Found(label.name, patient.name, path, prefix))
    return found


def _read_name(path: Path) -> tuple[str, str]:
    if path.is_dir():
        return "", "a stray folder; images lie in class/patient/ directly: move or delete it"
    if path.suffix.lower() not in SUFFIXES:
        return "", f"a stray file, not an image ({', '.join(SUFFIXES)}); move or delete it"
    prefix = path.stem.split("_")[0]
    if prefix in PREFIXES:
        return prefix, ""
    right = nearest(prefix, PREFIXES, 0.7)
    hint = f" (was '{right}_' meant?)" if right else ""
    return "", f"unknown prefix '{prefix}'; names start with OM_, OM-ori_, IM_ or TEM_{hint}: rename the file"


def _check_names(found: list[_Found], source: Path, problems: list[Problem]) -> None:
    classes: dict[str, set[str]] = defaultdict(set)
    for image in found:
        classes[image.patient].add(image.label)
    for patient, labels in classes.items():
        if len(labels) > 1:
            advice = (
                f"the patient is in several class folders ({', '.join(sorted(labels))}); keep the right one, "
                "or rename one folder if these are two patients"
            )
            problems.append(Problem(str(source), None, "patient", patient, advice))
    labels = {image.label for image in found}
    for image in found:
        parts = image.path.stem.split("_")
        told = (
            ("class", parts[1:], image.label, labels),
            ("patient", parts[2:], image.patient, set(classes)),
        )
        for what, rest, folder, others in told:
            name = rest[0] if rest else ""
            if name in others and not "_".join(rest).startswith(folder):
                advice = (
                    f"the name says {what} '{name}', the folder '{folder}'; move the file to the right "
                    "folder or rename it"
                )
                problems.append(Problem(_relative(image.path, source), None, None, None, advice))


def _patient_rows(found: list[_Found]) -> list[dict[str, str]]:
    labels = {image.patient: image.label for image in found}
    return [{"patient": patient, "label": label} for patient, label in labels.items()]


def _image_rows(found: list[_Found], source: Path, prefix: Path) -> list[dict[str, str]]:
    segmented = {image.patient for image in found if image.prefix == "OM"}
    rows = []
    for image in found:
        if image.prefix == "OM-ori" and image.patient in segmented:
            continue
        modality, kind = PREFIXES[image.prefix]
        path = (prefix / image.path.relative_to(source)).as_posix()
        rows.append({"patient": image.patient, "modality": modality, "path": path, "kind": kind})
    return rows


def _csv_text(columns: Sequence[str], rows: list[dict[str, str]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
