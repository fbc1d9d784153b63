"""How well the information score ranks TEM tiles that show deposits, on phantom micrographs.

The score knows nothing of deposits' outlines; they are only used here, to count. Use seeds that nothing
was tuned on. Conditions change what a laboratory may change: grain, contrast, section thickness
(Beer-Lambert: transmission to the power of the thickness, and blur), precipitate on the section, and
four dense granules in every field, such as lysosomes, which no score of density can tell from deposits. A
montage lays one field with deposits among eight without.

Columns: tiles left per image (median); share of images with deposits whose best tile, and one of whose
best five, shows one (at least 0.1 % of its area), each beside what random tiles would give; AUC of the
best tile's score, images with against images without deposits; share of patients (all have an image
with deposits) whose very best tile shows one.

Run: ``python benchmarks/tem_ranking.py --seeds 9001 9002 [--patients 24] [--full]``
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from scipy.ndimage import gaussian_filter

from glomflow.cohort.phantom.plan import plan_phantom
from glomflow.cohort.phantom.sites import site_named
from glomflow.cohort.phantom.tem import draw_micrograph
from glomflow.config import Phantom, TemTiles
from glomflow.evaluation.instances import DEPOSIT_AREA
from glomflow.imaging.tem import tile_tem_shard

WHITE = 65535.0


@dataclass(frozen=True)
class Condition:
    """How fields are changed: factors of grain and contrast, thickness, blur in nm, objects per field."""

    name: str
    grain: float = 1.0
    contrast: float = 1.0
    thickness: float = 1.0
    blur_nm: float = 0.0
    specks: int = 0
    granules: int = 0


@dataclass(frozen=True)
class Field:
    """A micrograph without its strip, with its truth."""

    patient: str
    nm_per_px: float
    image: np.ndarray
    mask: np.ndarray | None


CONDITIONS = (
    Condition("as drawn"),
    Condition("grain x 3", grain=3.0),
    Condition("contrast x 0.5", contrast=0.5),
    Condition("thin section", thickness=0.6),
    Condition("thick section", thickness=1.7, blur_nm=20.0),
    Condition("precipitate", specks=12),
    Condition("dense granules", granules=4),
)
FINE = (TemTiles(size=128, nm_per_px=10.0), TemTiles(size=96, nm_per_px=10.0))


def fields(seed: int, patients: int, condition: Condition) -> Iterator[Field]:
    """Draws the micrographs of a phantom cohort under a condition."""
    plan = plan_phantom(Phantom(seed=seed, patients=patients, missing_modality=0, damaged_files=0))
    for patient in plan.patients:
        site = site_named(patient.site)
        for number, micrograph in enumerate(patient.micrographs):
            drawn = draw_micrograph(
                np.random.default_rng([seed, patient.number, 13, number]),
                replace(site, tem_noise=0.0),
                micrograph.view,
                deposits=micrograph.deposits,
                appearance=patient.appearance["TEM"],
                stage=patient.stage,
            )
            rng = np.random.default_rng([seed, patient.number, 14, number])
            height = len(drawn.image) - site.strip_px
            clear = drawn.image[:height] / WHITE
            mask = None if drawn.mask is None else drawn.mask[:height]
            image = _changed(clear, condition, site.tem_noise, site.tem_nm_per_px, rng)
            yield Field(patient.patient, site.tem_nm_per_px, image, mask)


def _changed(
    clear: np.ndarray, condition: Condition, noise: float, nm: float, rng: np.random.Generator
) -> np.ndarray:
    image = clear.copy()
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    for _ in range(condition.granules):
        row, column = rng.uniform(0, image.shape[0]), rng.uniform(0, image.shape[1])
        away = np.hypot(rows - row, columns - column) * nm - rng.uniform(100, 250)
        cover = np.clip(0.5 - away / 30.0, 0, 1)
        image += cover * (rng.uniform(0.2, 0.35) - image)
    image = image**condition.thickness
    if condition.blur_nm:
        image = gaussian_filter(image, condition.blur_nm / nm)
    image = 0.5 + condition.contrast * (image - 0.5)
    image += condition.grain * noise * rng.standard_normal(image.shape)
    for _ in range(condition.specks):
        row, column = rng.uniform(0, image.shape[0]), rng.uniform(0, image.shape[1])
        radius = rng.uniform(50, 180) / nm
        image[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = 0.0
    return np.clip(np.rint(image * WHITE), 0, WHITE).astype(np.uint16)


def montages(drawn: list[Field], seed: int) -> Iterator[Field]:
    """Lays each field with deposits among eight without, of the same pixel size, in random order."""
    rng = np.random.default_rng([seed, 15])
    without = [field for field in drawn if field.mask is None]
    for field in (one for one in drawn if one.mask is not None):
        like = [one for one in without if one.image.shape == field.image.shape]
        if len(like) < 8:
            continue
        chosen = [like[int(index)] for index in rng.choice(len(like), 8, replace=False)]
        place = int(rng.integers(9))
        nine = [*chosen[:place], field, *chosen[place:]]
        masks = [np.zeros(one.image.shape, np.bool_) if one.mask is None else one.mask for one in nine]
        yield Field(field.patient, field.nm_per_px, _grid([one.image for one in nine]), _grid(masks))


def _grid(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.concatenate(parts[row : row + 3], axis=1) for row in (0, 3, 6)])


def ranked(drawn: list[Field], settings: TemTiles) -> dict[str, float]:
    """Tiles the fields as the workflow does and counts deposits among the best tiles."""
    settings = settings.model_copy(update={"max_per_image": 100_000, "max_instances": 1_000_000})
    results: list[tuple[float, ...]] = []
    best: dict[str, tuple[float, bool]] = {}
    without: list[float] = []
    for number, field in enumerate(drawn):
        table = _tiled(field, settings, number)
        shows = np.array([_covered(field, row) >= DEPOSIT_AREA for row in table.itertuples()])
        if not len(table):
            continue
        top = float(table["information"].iloc[0])
        best[field.patient] = max(best.get(field.patient, (-1.0, False)), (top, bool(shows[0])))
        if field.mask is None:
            without.append(top)
            continue
        count, hits = len(table), int(shows.sum())
        by_chance = 1.0 - math.comb(count - hits, 5) / math.comb(count, 5) if count >= 5 else 1.0
        results.append((count, shows[0], hits / count, shows[:5].any(), by_chance, top))
    values = np.array(results, np.float64)
    high = values[:, 5][:, None]
    low = np.array(without)
    auc = float((high > low).mean() + 0.5 * (high == low).mean()) if len(low) else math.nan
    return {
        "images": len(values),
        "tiles": float(np.median(values[:, 0])),
        "top1": values[:, 1].mean(),
        "chance1": values[:, 2].mean(),
        "top5": values[:, 3].mean(),
        "chance5": values[:, 4].mean(),
        "auc": auc,
        "patients": float(np.mean([hit for _, hit in best.values()])) if len(low) else math.nan,
    }


def _tiled(field: Field, settings: TemTiles, number: int) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        tifffile.imwrite(Path(name) / "field.tif", field.image)
        row = {"image": f"i{number}", "patient": "p", "modality": "TEM", "path": "field.tif", "slide": "s"}
        frame = pd.DataFrame([{**row, "status": "ok", "um_per_px": field.nm_per_px / 1000, "lesion": None}])
        return tile_tem_shard(frame, frame, Path(name), settings)[1]


def _covered(field: Field, row: object) -> float:
    if field.mask is None:
        return 0.0
    x, y, width, height = (round(getattr(row, key)) for key in ("x", "y", "width", "height"))
    return float(field.mask[y : y + height, x : x + width].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--patients", type=int, default=24)
    parser.add_argument("--full", action="store_true", help="all conditions at both tile sizes")
    options = parser.parse_args()
    print(f"phantom seeds {options.seeds}, {options.patients} patients each")
    print(
        f"{'condition':<16}{'tiles':<14}{'images':>7}{'n':>5}  {'top 1 (chance)':<16}{'top 5 (chance)':<16}"
        f"{'AUC':>6}{'patients':>10}"
    )
    for condition in CONDITIONS:
        by_seed = {seed: list(fields(seed, options.patients, condition)) for seed in options.seeds}
        drawn = [
            replace(field, patient=f"{seed}/{field.patient}")
            for seed, some in by_seed.items()
            for field in some
        ]
        for settings in FINE if options.full or condition is CONDITIONS[0] else FINE[:1]:
            show(condition.name, settings, drawn)
        show(condition.name, TemTiles(), drawn)
        laid = [montage for seed, some in by_seed.items() for montage in montages(some, seed)]
        show("  in a montage", TemTiles(), laid)
        show("  in a montage", FINE[0], laid)


def show(name: str, settings: TemTiles, drawn: list[Field]) -> None:
    of = ranked(drawn, settings)
    tiles = f"{settings.size} at {settings.nm_per_px:g} nm"
    print(
        f"{name:<16}{tiles:<14}{of['images']:>7.0f}{of['tiles']:>5.0f}  "
        f"{of['top1']:.3f} ({of['chance1']:.3f})   {of['top5']:.3f} ({of['chance5']:.3f})   "
        f"{of['auc']:>6.3f}{of['patients']:>10.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
