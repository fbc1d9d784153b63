"""The finder's jobs: which images it learns from, and searching the images of a shard.

An image with outlines is searched by the finder of the fold that it is a test image of, which has seen
neither its slide nor its patient; that is what the finder is judged by. An image without outlines is
searched by the finder that learnt from all annotated images. Finders see outlines and never a label of a
patient, so that no diagnosis reaches the crops through them, whatever fold a patient is in later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from glomflow.cohort.finder_folds import WHOLE, check_finder_folds, finder_folds
from glomflow.config_finder import Finder
from glomflow.errors import GlomflowError, ImageError
from glomflow.imaging.annotations import Outline, read_outlines, write_geojson
from glomflow.imaging.readers import open_image
from glomflow.tables import FINDER_FOLDS, FINDER_IMAGES, FINDER_TRAINING, FOUND, SEARCHED
from glomflow.training.finder_predict import find
from glomflow.training.finder_types import FinderField, Found, GlomerulusModel

_LONGEST_NAME = 200


def finder_images(inventory: pd.DataFrame, images: pd.DataFrame, *, annotated: bool) -> pd.DataFrame:
    """Lists the usable OM fields with outlines, or those without.

    Args:
        inventory: INVENTORY rows.
        images: IMAGES rows.
        annotated: Which of the two.

    Returns:
        FINDER_IMAGES rows, in the order of the inventory.
    """
    sheet = images.set_index("image")[["annotation", "kind"]]
    rows = inventory[(inventory["modality"] == "OM") & (inventory["status"] == "ok")]
    rows = rows.join(sheet, on="image")
    rows = rows.assign(annotation=rows["annotation"].fillna("").astype("str"))
    chosen = (rows["kind"] == "field") & ((rows["annotation"] != "") == annotated)
    return rows.loc[chosen, list(FINDER_IMAGES)].reset_index(drop=True)


def deal_fields(fields: pd.DataFrame, settings: Finder, seed: int) -> pd.DataFrame:
    """Deals the annotated fields into the finder's folds.

    Args:
        fields: FINDER_IMAGES rows.
        settings: The section ``imaging.finder``.
        seed: Seed of the folds.

    Returns:
        FINDER_FOLDS rows; none where a model's file is used and nothing is annotated to judge it by.

    Raises:
        GlomflowError: There is nothing to learn from, or too few slides for the folds.
    """
    if not len(fields):
        if settings.model != "train":
            return pd.DataFrame({column: [] for column in FINDER_FOLDS})
        raise GlomflowError(
            "imaging.finder.enabled: no OM image of kind 'field' has outlines that the finder could learn "
            "from; outline the glomeruli of some images, or name a trained model in imaging.finder.model"
        )
    folds = finder_folds(
        fields, n_splits=settings.n_splits, validation_fraction=settings.validation_fraction, seed=seed
    )
    check_finder_folds(folds, fields)
    return folds


def training_table(fields: pd.DataFrame, folds: pd.DataFrame, fold: str) -> pd.DataFrame:
    """Returns the FINDER_TRAINING rows of a fold: its training and validation fields."""
    rows = folds[(folds["fold"] == fold) & (folds["split"] != "test")]
    table = rows.merge(fields, on="image", how="left")
    return table[list(FINDER_TRAINING)].reset_index(drop=True)


def fields_of(table: pd.DataFrame, folder: Path, split: str) -> list[FinderField]:
    """Reads the outlines of a fold's fields.

    Args:
        table: FINDER_TRAINING rows.
        folder: Cohort folder.
        split: ``train`` or ``validation``.

    Returns:
        The fields; a field whose annotation cannot be read is left out, with a line on standard output.
    """
    fields = []
    for row in table[table["split"] == split].to_dict("records"):
        try:
            size = int(row["width"]), int(row["height"])
            outlines = read_outlines(folder / row["annotation"], image_size=size, image_name=str(row["path"]))
        except ImageError as error:
            print(f"finder: image '{row['image']}' is left out: {error.reason}")
            continue
        fields.append(
            FinderField(row["image"], folder / row["path"], float(row["um_per_px"]), tuple(outlines))
        )
    return fields


def find_shard(
    inventory: pd.DataFrame,
    images: pd.DataFrame,
    folds: pd.DataFrame,
    folder: Path,
    settings: Finder,
    load: Callable[[str], GlomerulusModel],
    out: Path,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Searches the OM fields of a shard and writes what is found as GeoJSON, one file per image.

    Args:
        inventory: INVENTORY rows of the shard.
        images: IMAGES rows of the shard.
        folds: FINDER_FOLDS rows of the cohort.
        folder: Cohort folder.
        settings: The section ``imaging.finder``.
        load: Loads the finder of a fold; called once per fold that is needed.
        out: Folder for the GeoJSON files.

    Returns:
        SEARCHED and FOUND rows. An image that cannot be read has a reason and nothing found.

    Raises:
        GlomflowError: A finder cannot be loaded, or fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    tests = folds[folds["split"] == "test"].set_index("image")["fold"]
    with_outlines = finder_images(inventory, images, annotated=True)
    with_outlines = with_outlines[with_outlines["image"].isin(tests.index)]
    jobs = pd.concat(
        [
            with_outlines.assign(fold=with_outlines["image"].map(tests)),
            finder_images(inventory, images, annotated=False).assign(fold=WHOLE),
        ]
    )
    searched, found = [], []
    for fold, rows in jobs.groupby("fold", sort=True):
        model = load(str(fold))
        for row in rows.to_dict("records"):
            glomeruli, reason = _search(row, folder, model, settings)
            name = geojson_name(str(row["image"]))
            _write(out / name, row, glomeruli)
            searched.append(_identity(row) | {"glomeruli": len(glomeruli), "reason": reason, "geojson": name})
            found += list(_rows(row, glomeruli))
    return pd.DataFrame(searched, columns=list(SEARCHED)), pd.DataFrame(found, columns=list(FOUND))


def _search(
    row: Mapping[Any, Any], folder: Path, model: GlomerulusModel, settings: Finder
) -> tuple[list[Found], str]:
    try:
        with open_image(folder / row["path"]) as reader:
            return find(reader, float(row["um_per_px"]), model, settings), ""
    except ImageError as error:
        print(f"no glomeruli of image '{row['image']}': {error.reason}")
        return [], error.reason


def _identity(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("image", "patient", "slide", "fold")}


def _write(path: Path, row: Mapping[Any, Any], glomeruli: list[Found]) -> None:
    outlines = [Outline(each.polygon, None, _name(row, number)) for number, each in enumerate(glomeruli)]
    measured = [
        {"score": each.score, "area_um2": each.area_um2, "at_border": float(each.at_border)}
        for each in glomeruli
    ]
    write_geojson(path, outlines, measurements=measured)


def _rows(row: Mapping[Any, Any], glomeruli: list[Found]) -> Iterator[dict[str, Any]]:
    for number, each in enumerate(glomeruli):
        left, top, right, bottom = each.box
        yield _identity(row) | {
            "glomerulus": _name(row, number),
            "x": left,
            "y": top,
            "width": right - left,
            "height": bottom - top,
            "area_um2": each.area_um2,
            "score": each.score,
            "at_border": each.at_border,
            "points": json.dumps(each.polygon.round(2).tolist()),
        }


def _name(row: Mapping[Any, Any], number: int) -> str:
    return f"{row['image']}#{number}"


def geojson_name(image: str) -> str:
    """Returns the name of an image's GeoJSON file; a digest takes the place of a very long identifier."""
    long = len(image.encode()) > _LONGEST_NAME
    return f"{hashlib.sha256(image.encode()).hexdigest() if long else image}.geojson"
