"""Everything about the phantom cohort that is decided before a pixel is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from glomflow.cohort.phantom.captions import LESIONS, caption_for
from glomflow.cohort.phantom.factors import (
    CLASSES,
    MODALITIES,
    NONDIAGNOSTIC,
    STAGES,
    appearance_of,
    apportion,
    cell_probabilities,
    deal,
)
from glomflow.cohort.phantom.sites import SITES
from glomflow.config import Phantom
from glomflow.errors import ConfigError

DAMAGES = ("truncated", "empty", "text")
"""Ways of damaging a file: cut short; no bytes at all; a text under an image's name."""

_MISSING_ORDER = ("TEM", "IM", "OM")
_DAMAGED_ORDER = ("TEM", "IM")
_FACTORS, _CONTENTS, _ACCIDENTS, _OUTLINES = 1, 2, 3, 4


@dataclass(frozen=True)
class GlomerulusPlan:
    """One glomerulus of an OM field: its name, lesion class and caption."""

    name: str
    lesion: str
    caption: str


@dataclass(frozen=True)
class MicrographPlan:
    """One TEM image.

    Attributes:
        path: File, relative to the cohort folder.
        view: ``capillary``: wall and lumen; ``mesangium``: wall and mesangial matrix.
        deposits: Whether electron-dense deposits are drawn.
        mask: Mask of the deposits, relative to the cohort folder, or None.
    """

    path: str
    view: str
    deposits: bool
    mask: str | None


@dataclass(frozen=True)
class PatientPlan:
    """One patient.

    Attributes:
        patient: Patient identifier.
        number: Place in the cohort, from 0; with the cohort's seed it determines the images.
        label: Class.
        site: Site name.
        stage: Stage of membranous nephropathy, None for other classes.
        appearance: For each modality the class that it looks like, or ``nondiagnostic``.
        missing: Modalities that the patient lacks.
        glomeruli: Glomeruli of the OM field.
        micrographs: TEM images.
        outlined: Whether the sheet names the outlines of the OM field.
    """

    patient: str
    number: int
    label: str
    site: str
    stage: str | None
    appearance: dict[str, str]
    missing: tuple[str, ...]
    glomeruli: tuple[GlomerulusPlan, ...]
    micrographs: tuple[MicrographPlan, ...]
    outlined: bool = True

    @property
    def om_path(self) -> str | None:
        """Path of the OM field, None if the patient lacks it."""
        return None if "OM" in self.missing else f"OM/{self.patient}.tif"

    @property
    def annotation_path(self) -> str | None:
        """Path of the outlines of the OM field, None if the patient lacks it.

        Outlines that the sheet does not name lie with the truth.
        """
        folder = "OM" if self.outlined else "truth/OM"
        return None if "OM" in self.missing else f"{folder}/{self.patient}.geojson"

    @property
    def im_path(self) -> str | None:
        """Path of the IM image, None if the patient lacks it."""
        return None if "IM" in self.missing else f"IM/{self.patient}.ome.tif"


@dataclass(frozen=True)
class PhantomPlan:
    """The whole cohort.

    Attributes:
        settings: The settings that it was made from.
        patients: The patients, in the order of the sheets.
        damaged: How a file is damaged, by its path.
    """

    settings: Phantom
    patients: tuple[PatientPlan, ...]
    damaged: dict[str, str]

    def seen(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yields each patient's class and appearances.

        A modality that is missing, or whose only file is damaged, counts as nondiagnostic.
        """
        for patient in self.patients:
            blind = set(patient.missing)
            if patient.im_path in self.damaged:
                blind.add("IM")
            yield (
                patient.label,
                {m: NONDIAGNOSTIC if m in blind else patient.appearance[m] for m in MODALITIES},
            )


def plan_phantom(settings: Phantom) -> PhantomPlan:
    """Decides everything about the cohort: classes, sites, appearances, lesions, accidents.

    Classes, sites and appearances are dealt by quota, so that a small cohort is near its ceilings.

    Args:
        settings: Section ``phantom`` of the configuration.

    Raises:
        ConfigError: A range is the wrong way round, or more patients or files are to be spoilt than
            there are.
    """
    _check(settings)
    factors = _deal_factors(settings)
    accidents = np.random.default_rng([settings.seed, _ACCIDENTS])
    missing = _deal_missing(settings, accidents)
    digits = max(3, len(str(settings.patients)))
    bare = _deal_bare_fields(settings)
    patients = tuple(
        replace(
            _plan_patient(
                settings, number, f"P{number + 1:0{digits}d}", *factors[number], missing.get(number, ())
            ),
            outlined=number not in bare,
        )
        for number in range(settings.patients)
    )
    return PhantomPlan(settings, patients, _deal_damage(settings, patients, accidents))


def _check(settings: Phantom) -> None:
    for key in ("glomeruli", "tem_images"):
        low, high = getattr(settings, key)
        if low > high:
            raise ConfigError(
                f"phantom.{key}: [{low}, {high}] is the wrong way round; write '{key}: [{high}, {low}]'"
            )
    if settings.missing_modality > settings.patients:
        raise ConfigError(
            f"phantom.missing_modality: {settings.missing_modality} patients cannot lack a modality where "
            f"phantom.patients is {settings.patients}; write {settings.patients} or less"
        )
    if settings.bare_fields > settings.patients:
        raise ConfigError(
            f"phantom.bare_fields: {settings.bare_fields} fields cannot be without outlines where "
            f"phantom.patients is {settings.patients}; write {settings.patients} or less"
        )


def _deal_factors(settings: Phantom) -> list[tuple[str, str, str | None, dict[str, str]]]:
    """Deals label, site, stage and appearances, in the order of the patients."""
    rng = np.random.default_rng([settings.seed, _FACTORS])
    cells = list(cell_probabilities())
    shares = list(cell_probabilities().values())
    class_counts = apportion(settings.patients, [1 / len(CLASSES)] * len(CLASSES))
    rows: list[tuple[str, str, str | None, dict[str, str]]] = []
    for label, count in zip(CLASSES, class_counts, strict=True):
        dealt_cells = deal(cells, apportion(count, shares), rng)
        even = apportion(count, [1 / 3] * 3)
        sites = deal(SITES, [even[(k + len(rows)) % 3] for k in range(3)], rng)
        stages = deal(STAGES, even, rng)
        rows += [
            (
                label,
                SITES[site].name,
                STAGES[stage] if label == "MN" else None,
                appearance_of(label, cells[cell]),
            )
            for cell, site, stage in zip(dealt_cells, sites, stages, strict=True)
        ]
    return [rows[index] for index in rng.permutation(len(rows))]


def _deal_missing(settings: Phantom, rng: np.random.Generator) -> dict[int, tuple[str, ...]]:
    unlucky = rng.permutation(settings.patients)[: settings.missing_modality]
    return {int(number): (_MISSING_ORDER[k % 3],) for k, number in enumerate(unlucky)}


def _deal_bare_fields(settings: Phantom) -> set[int]:
    """Chooses the patients whose OM field comes without outlines."""
    rng = np.random.default_rng([settings.seed, _OUTLINES])
    return {int(number) for number in rng.permutation(settings.patients)[: settings.bare_fields]}


def _plan_patient(
    settings: Phantom,
    number: int,
    name: str,
    label: str,
    site: str,
    stage: str | None,
    appearance: dict[str, str],
    missing: tuple[str, ...],
) -> PatientPlan:
    rng = np.random.default_rng([settings.seed, _CONTENTS, number])
    glomeruli = _plan_glomeruli(settings, name, rng)
    micrographs = _plan_micrographs(settings, name, appearance["TEM"], rng)
    return PatientPlan(
        patient=name,
        number=number,
        label=label,
        site=site,
        stage=stage,
        appearance=appearance,
        missing=missing,
        glomeruli=() if "OM" in missing else glomeruli,
        micrographs=() if "TEM" in missing else micrographs,
    )


def _plan_glomeruli(settings: Phantom, patient: str, rng: np.random.Generator) -> tuple[GlomerulusPlan, ...]:
    """Draws lesions without looking at the class; at least half of the glomeruli are normal."""
    low, high = settings.glomeruli
    count = int(rng.integers(low, high + 1))
    diseased = max(0, count // 2 - int(rng.integers(2)))
    order = rng.permutation(len(LESIONS) - 1)
    lesions = [LESIONS[1 + order[k % len(order)]] for k in range(diseased)]
    lesions += ["normal"] * (count - diseased)
    return tuple(
        GlomerulusPlan(f"{patient}_g{k:02d}", lesions[index], caption_for(lesions[index], rng))
        for k, index in enumerate(rng.permutation(count), 1)
    )


def _plan_micrographs(
    settings: Phantom, patient: str, appearance: str, rng: np.random.Generator
) -> tuple[MicrographPlan, ...]:
    """Draws which images show deposits (20-40 % of them, at least one) and what they are views of.

    Images without deposits are views of a capillary and of mesangium by turns, whatever the class.
    """
    low, high = settings.tem_images
    count = int(rng.integers(low, high + 1))
    fewest = max(1, math.ceil(0.2 * count - 1e-9))
    most = max(fewest, math.floor(0.4 * count + 1e-9))
    with_deposits = set(rng.permutation(count)[: int(rng.integers(fewest, most + 1))].tolist())
    first = int(rng.integers(2))
    plans: list[MicrographPlan] = []
    for k in range(count):
        name = f"{patient}_{k + 1:02d}"
        deposits = k in with_deposits
        turn = first + sum(plan.deposits == deposits for plan in plans)
        view = ("capillary", "mesangium")[turn % 2]
        plans.append(
            MicrographPlan(
                path=f"TEM/{name}.tif",
                view=_view_of_deposits(appearance, view, rng) if deposits else view,
                deposits=deposits,
                mask=f"truth/TEM/{name}.png" if deposits else None,
            )
        )
    return tuple(plans)


def _view_of_deposits(appearance: str, view: str, rng: np.random.Generator) -> str:
    """Turns the view to where the disease lays its deposits: IgAN in the mesangium, LN mostly not."""
    if appearance == "IgAN":
        return "mesangium"
    return "capillary" if appearance == "LN" and rng.random() < 0.6 else view


def _deal_damage(
    settings: Phantom, patients: tuple[PatientPlan, ...], rng: np.random.Generator
) -> dict[str, str]:
    """Chooses files to damage: at most one per patient, who has all modalities.

    TEM files are chosen among those without deposits, so that damage takes no evidence from a bag.
    """
    whole = [patients[int(k)] for k in rng.permutation(len(patients)) if not patients[int(k)].missing]
    damaged: dict[str, str] = {}
    for turn in range(settings.damaged_files):
        modality = _DAMAGED_ORDER[turn % 2]
        found = next(
            (
                (patient, path)
                for patient in whole
                for path in (_spoilable(patient) if modality == "TEM" else [patient.im_path])
                if path is not None
            ),
            None,
        )
        if found is None:
            raise ConfigError(
                f"phantom.damaged_files: {settings.damaged_files} files cannot be damaged, only {turn} "
                "(one per patient who lacks no modality); lower it or raise phantom.patients"
            )
        whole.remove(found[0])
        damaged[found[1]] = DAMAGES[turn % len(DAMAGES)]
    return dict(sorted(damaged.items()))


def _spoilable(patient: PatientPlan) -> list[str]:
    return [micrograph.path for micrograph in patient.micrographs if not micrograph.deposits]
