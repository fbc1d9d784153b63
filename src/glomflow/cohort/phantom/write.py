"""Writes the phantom cohort: its sheets, its truth and its images."""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.cohort.phantom.factors import ceilings, realised_ceilings
from glomflow.cohort.phantom.fields import Array
from glomflow.cohort.phantom.im import MARKERS, draw_immunofluorescence
from glomflow.cohort.phantom.om import draw_field
from glomflow.cohort.phantom.plan import PatientPlan, PhantomPlan
from glomflow.cohort.phantom.sites import Site, site_named
from glomflow.cohort.phantom.tem import draw_micrograph
from glomflow.cohort.sheets import IMAGE_COLUMNS, OPTIONAL_IMAGE_COLUMNS
from glomflow.errors import GlomflowError
from glomflow.files import atomic_path, write_json, write_text

_OM, _IM, _TEM = 11, 12, 13
_COLOURS = {
    "normal": (64, 160, 64),
    "globally_sclerotic": (160, 32, 96),
    "segmentally_sclerotic": (224, 128, 32),
    "ischaemic": (48, 112, 208),
    "crescentic": (208, 48, 48),
}
_PYRAMID = (2, 4)
_JPEG_QUALITY = 90


def write_phantom_sheets(plan: PhantomPlan, folder: Path) -> None:
    """Writes ``patients.csv``, ``images.csv``, ``captions.csv`` and ``phantom.json``.

    Args:
        plan: The cohort.
        folder: The cohort folder; created if need be.
    """
    _write_csv(
        folder / "patients.csv",
        ("patient", "label", "site", "stage"),
        ((p.patient, p.label, p.site, p.stage or "") for p in plan.patients),
    )
    rows = (row for patient in plan.patients for row in _image_rows(patient))
    _write_csv(
        folder / "images.csv",
        (*IMAGE_COLUMNS, *OPTIONAL_IMAGE_COLUMNS),
        ([row.get(name, "") for name in (*IMAGE_COLUMNS, *OPTIONAL_IMAGE_COLUMNS)] for row in rows),
    )
    _write_csv(
        folder / "captions.csv",
        ("glomerulus", "patient", "lesion", "caption"),
        ((g.name, p.patient, g.lesion, g.caption) for p in plan.patients for g in p.glomeruli),
    )
    write_json(folder / "phantom.json", _truth(plan))


def write_phantom_images(plan: PhantomPlan, folder: Path, patients: Sequence[str]) -> list[str]:
    """Draws and writes the images, outlines and masks of some patients.

    A patient's files depend on the cohort's settings and the patient only, not on the others drawn
    in the same call nor on their order.

    Args:
        plan: The cohort.
        folder: The cohort folder.
        patients: Identifiers of the patients to draw.

    Returns:
        Paths of the files written, relative to ``folder``.

    Raises:
        GlomflowError: The cohort has no such patient.
    """
    known = {patient.patient: patient for patient in plan.patients}
    unknown = sorted(set(patients) - set(known))
    if unknown:
        raise GlomflowError(
            f"the phantom cohort has no patient {', '.join(unknown)}; it has {plan.patients[0].patient} to "
            f"{plan.patients[-1].patient} (phantom.patients: {len(known)})"
        )
    written: list[str] = []
    for name in patients:
        files = _write_patient(plan.settings.seed, known[name], folder)
        for path in sorted(set(files) & set(plan.damaged)):
            _damage(folder / path, plan.damaged[path])
        written += files
    return written


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def _image_rows(patient: PatientPlan) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    if patient.om_path and patient.annotation_path:
        rows.append(
            {
                "modality": "OM",
                "path": patient.om_path,
                "slide": f"{patient.patient}-PAS",
                "stain": "PAS",
                "annotation": patient.annotation_path if patient.outlined else "",
            }
        )
    if patient.im_path:
        rows.append({"modality": "IM", "path": patient.im_path, "marker": ";".join(MARKERS)})
    rows += [{"modality": "TEM", "path": micrograph.path} for micrograph in patient.micrographs]
    return [{"patient": patient.patient, "kind": "field", **row} for row in rows]


def _truth(plan: PhantomPlan) -> dict[str, Any]:
    micrographs = [m for patient in plan.patients for m in patient.micrographs]
    return {
        "seed": plan.settings.seed,
        "settings": plan.settings.model_dump(mode="json"),
        "ceilings": ceilings(),
        "realised_ceilings": realised_ceilings(plan.seen()),
        "patients": {
            p.patient: {
                "label": p.label,
                "site": p.site,
                "stage": p.stage,
                "appearance": p.appearance,
                "missing": list(p.missing),
            }
            for p in plan.patients
        },
        "tem_images": {m.path: {"deposits": m.deposits, "mask": m.mask} for m in micrographs},
        "damaged": plan.damaged,
    }


def _write_patient(seed: int, patient: PatientPlan, folder: Path) -> list[str]:
    site = site_named(patient.site)
    written = []
    if patient.om_path and patient.annotation_path:
        rng = np.random.default_rng([seed, patient.number, _OM])
        field = draw_field(rng, site, patient.appearance["OM"], [g.lesion for g in patient.glomeruli])
        _write_pyramid(folder / patient.om_path, field.rgb, site)
        write_text(folder / patient.annotation_path, _geojson(patient, field.outlines))
        written += [patient.om_path, patient.annotation_path]
    if patient.im_path:
        rng = np.random.default_rng([seed, patient.number, _IM])
        channels = draw_immunofluorescence(rng, site, patient.appearance["IM"])
        _write_ome(folder / patient.im_path, channels, site, f"{seed}/{patient.patient}")
        written.append(patient.im_path)
    for number, micrograph in enumerate(patient.micrographs):
        drawn = draw_micrograph(
            np.random.default_rng([seed, patient.number, _TEM, number]),
            site,
            micrograph.view,
            deposits=micrograph.deposits,
            appearance=patient.appearance["TEM"],
            stage=patient.stage,
        )
        _write_micrograph(folder / micrograph.path, drawn.image, site)
        written.append(micrograph.path)
        if micrograph.mask is not None and drawn.mask is not None:
            _write_png(folder / micrograph.mask, drawn.mask.astype(np.uint8) * np.uint8(255))
            written.append(micrograph.mask)
    return written


def _write_pyramid(path: Path, rgb: npt.NDArray[np.uint8], site: Site) -> None:
    """Writes a tiled JPEG TIFF whose lower levels are sub-IFDs, with its pixel size."""
    import tifffile

    options: dict[str, Any] = {
        "photometric": "rgb",
        "tile": (256, 256),
        "compression": "jpeg",
        "compressionargs": {"level": _JPEG_QUALITY},
        "metadata": None,
        "software": False,
    }
    with atomic_path(path) as temporary, tifffile.TiffWriter(temporary) as writer:
        per_cm = 1e4 / site.om_um_per_px
        writer.write(
            rgb,
            subifds=len(_PYRAMID),
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            **options,
        )
        for factor in _PYRAMID:
            writer.write(_shrink(rgb, factor), subfiletype=1, **options)


def _shrink(rgb: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """Averages blocks of ``factor`` x ``factor`` pixels; a remainder at the edges is dropped."""
    height, width = (length // factor for length in rgb.shape[:2])
    total = np.zeros((height, width, 3), np.uint16)
    for row in range(factor):
        for col in range(factor):
            total += rgb[row : height * factor : factor, col : width * factor : factor]
    return ((total + factor * factor // 2) // (factor * factor)).astype(np.uint8)


def _geojson(patient: PatientPlan, outlines: list[Array]) -> str:
    """Returns Bowman's capsules as QuPath writes annotations."""
    features = []
    for glomerulus, outline in zip(patient.glomeruli, outlines, strict=True):
        ring = [[round(float(x), 2), round(float(y), 2)] for x, y in (*outline, outline[0])]
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(uuid.NAMESPACE_OID, glomerulus.name)),
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {
                    "objectType": "annotation",
                    "name": glomerulus.name,
                    "classification": {
                        "name": glomerulus.lesion,
                        "color": list(_COLOURS[glomerulus.lesion]),
                    },
                },
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features}) + "\n"


def _write_ome(path: Path, channels: npt.NDArray[np.uint16], site: Site, identity: str) -> None:
    import tifffile

    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            channels,
            ome=True,
            photometric="minisblack",
            compression="zlib",
            compressionargs={"level": 1},
            software=False,
            metadata={
                "axes": "CYX",
                "Channel": {"Name": list(MARKERS)},
                "PhysicalSizeX": site.im_um_per_px,
                "PhysicalSizeXUnit": "µm",
                "PhysicalSizeY": site.im_um_per_px,
                "PhysicalSizeYUnit": "µm",
                "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, identity)),
                "Creator": "glomflow",
            },
        )


def _write_micrograph(path: Path, image: npt.NDArray[np.uint16], site: Site) -> None:
    import tifffile

    per_cm = 1e7 / site.tem_nm_per_px
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            image,
            photometric="minisblack",
            compression="zlib",
            compressionargs={"level": 1},
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            software=False,
            metadata=None,
        )


def _write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, optimize=False)


def _damage(path: Path, how: str) -> None:
    """Spoils a file: cuts it short, empties it, or puts a text in its place."""
    content = path.read_bytes()
    spoilt = {
        "truncated": content[: len(content) * 2 // 5],
        "empty": b"",
        "text": b"This file should have been an image; the export failed.\n",
    }[how]
    with atomic_path(path) as temporary:
        temporary.write_bytes(spoilt)
