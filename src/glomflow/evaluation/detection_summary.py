"""Summary of the glomerulus finder on held-out fields, with intervals that respect slides.

Fields of a slide resemble each other, and so do slides of a patient: the bootstrap resamples groups of
fields that share a slide or a patient, whole. Where all resamples agree (nothing missed anywhere), the
interval is Wilson's with the groups as trials. With fewer than two groups there is no interval, and
with few (the tables count them) it is too narrow. Scores of all folds' finders are ranked together.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from glomflow.cohort.finder_folds import field_groups
from glomflow.config import Evaluation
from glomflow.errors import GlomflowError
from glomflow.evaluation.comparison import adjust
from glomflow.evaluation.detection import (
    COUNTS,
    IOU_LEVELS,
    POOLED,
    Border,
    FieldDetections,
    FieldMatches,
    Floats,
    average_precision,
    count_agreement,
    match_field,
    pooled_metrics,
    precision_recall,
)
from glomflow.evaluation.detection_overlap import Points
from glomflow.evaluation.intervals import collapsed, percentile_interval, resample_weights, wilson
from glomflow.tables import Column, Schema, read_tables, write_tables

ALL_FOLDS = "pooled"
"""What column ``fold`` says of the metrics over all folds together."""

FINDER_METRICS: Schema = {
    "fold": Column("string", f"fold of the finder, or '{ALL_FOLDS}': the test fields of all folds"),
    "metric": Column("string", "name of the metric"),
    "value": Column("float64", "the metric over the fields together; missing if undefined"),
    "lower": Column("float64", f"lower end of the interval over slides ('{ALL_FOLDS}' only)"),
    "upper": Column("float64", "upper end of the interval"),
    "interval": Column("string", "'slides' (bootstrap), 'wilson' where it collapsed, 'none'"),
    "fields": Column("int64", "test fields"),
    "slides": Column("int64", "slides of these"),
    "groups": Column("int64", "independent groups of slides (patients), which are resampled"),
    "annotated": Column("int64", "annotated glomeruli that count"),
    "found": Column("int64", "found glomeruli that count"),
    "border": Column("string", "'count' or 'ignore': what became of glomeruli cut by the image's border"),
}

FINDER_FIELDS: Schema = {
    "fold": Column("string", "fold of the finder that was applied; the field is a test field there"),
    "image": Column("string", "image identifier"),
    "patient": Column("string", "patient identifier"),
    "slide": Column("string", "slide identifier"),
    "annotated": Column("int64", "annotated glomeruli that count"),
    "found": Column("int64", "found glomeruli that count"),
    "hits": Column("int64", "found glomeruli that overlap an annotated one, IoU at least 0.5"),
    "missed": Column("int64", "annotated glomeruli that were not found"),
    "wrong": Column("int64", "found glomeruli that are none of the annotated"),
    "left_out": Column("int64", "annotated glomeruli that the border cuts and that do not count"),
    "dice": Column(
        "float64", "Dice coefficient of the joined areas; missing if nothing was annotated or found"
    ),
    "mean_iou": Column("float64", "mean IoU of the hits; missing if there is none"),
    "ap50": Column("float64", "average precision at IoU 0.5; missing if nothing was annotated"),
}

FINDER_COUNTS: Schema = {
    "slide": Column("string", "slide identifier"),
    "patient": Column("string", "patient identifier"),
    "fields": Column("int64", "test fields of the slide"),
    "annotated": Column("int64", "annotated glomeruli that count"),
    "found": Column("int64", "found glomeruli that count"),
}

FINDER_CURVE: Schema = {
    "iou": Column("float64", "overlap from which a find is right"),
    "score": Column("float64", "least score that counts, in falling order"),
    "precision": Column("float64", "share of the finds that are right"),
    "recall": Column("float64", "share of the annotated glomeruli that are found"),
}

FINDER_OUTLINES: Schema = {
    "fold": Column("string", "fold of the finder that was applied"),
    "image": Column("string", "image identifier"),
    "kind": Column("string", "'annotated' or 'found'"),
    "outcome": Column("string", "'hit', 'missed' (annotated), 'wrong' (found) or 'left_out', at IoU 0.5"),
    "score": Column("float64", "score of a found one"),
    "iou": Column("float64", "IoU with the annotated one that it claimed; missing if none"),
    "points": Column("string", "JSON: x and y of the outline within the image, full-resolution px, to 0.1"),
}

FINDER_PAIRED: Schema = {
    "first": Column("string", "name of the first finder"),
    "other": Column("string", "name of the other finder"),
    "metric": Column("string", "name of the metric"),
    "value": Column("float64", "metric of the first finder"),
    "other_value": Column("float64", "metric of the other finder"),
    "difference": Column("float64", "metric of the first less that of the other"),
    "lower": Column(
        "float64", "lower end of the interval, both on the same resampled slides; may be missing"
    ),
    "upper": Column("float64", "upper end of the interval; missing where all resamples agree"),
    "p_value": Column("float64", "two-sided: the finders swapped on whole groups of slides"),
    "p_holm": Column("float64", "p value adjusted for the number of other finders (Holm)"),
}

TABLES: dict[str, Schema] = {
    "metrics": FINDER_METRICS,
    "fields": FINDER_FIELDS,
    "counts": FINDER_COUNTS,
    "curve": FINDER_CURVE,
    "outlines": FINDER_OUTLINES,
}
"""The tables by file name; each is written as ``<name>.parquet``."""

FINDER_FILES = tuple(f"{name}.parquet" for name in TABLES)
"""What :meth:`FinderSummary.write` writes."""

CURVE_LEVELS = (0.5, 0.75)
"""Overlaps whose curves of precision over recall are kept."""


@dataclass(frozen=True)
class FinderSummary:
    """How the finder did on fields of slides that it had not seen.

    Attributes:
        metrics: Metrics with intervals, over all folds and fold by fold.
        fields: One row per field.
        counts: One row per slide.
        curve: Precision over recall.
        outlines: What was annotated and found, outline by outline.
    """

    metrics: pd.DataFrame
    fields: pd.DataFrame
    counts: pd.DataFrame
    curve: pd.DataFrame
    outlines: pd.DataFrame

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Writes the tables as Parquet files."""
        write_tables(folder, {name: getattr(self, name) for name in TABLES}, TABLES)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> FinderSummary:
        """Reads what :meth:`write` wrote.

        Raises:
            GlomflowError: A file is missing or does not hold what it should.
        """
        return cls(**read_tables(folder, TABLES))


@dataclass(frozen=True, eq=False)
class _Judged:
    """Fields with their matches and the groups that are resampled.

    Attributes:
        table: FINDER_FIELDS rows with the column ``group``, a number.
        matches: Of each row.
    """

    table: pd.DataFrame
    matches: list[FieldMatches]

    @property
    def groups(self) -> int:
        """Independent groups."""
        return int(self.table["group"].max()) + 1

    def counts(self) -> pd.DataFrame:
        """One row per slide, with its group."""
        rows = self.table.assign(
            slide=self.table["slide"].where(_given(self.table["slide"]), self.table["image"])
        )
        return rows.groupby("slide", as_index=False).agg(
            patient=("patient", "first"),
            fields=("image", "size"),
            annotated=("annotated", "sum"),
            found=("found", "sum"),
            group=("group", "first"),
        )

    def evaluate(self, weights: Floats | None = None) -> dict[str, Floats]:
        """Returns all metrics; ``weights`` are those of the groups, (R, groups)."""
        slides = self.counts()
        of_fields = None if weights is None else weights[:, self.table["group"].to_numpy()]
        of_slides = None if weights is None else weights[:, slides["group"].to_numpy()]
        agreement = count_agreement(
            slides["annotated"].to_numpy(float), slides["found"].to_numpy(float), of_slides
        )
        return {**pooled_metrics(self.matches, of_fields), **agreement}


def check_tested(fields: Sequence[FieldDetections], folds: pd.DataFrame) -> None:
    """Checks that every annotated field was searched once, by the finder that had not seen it.

    Args:
        fields: The fields that were searched.
        folds: Columns fold, image and split, see :func:`glomflow.cohort.finder_folds.finder_folds`.

    Raises:
        GlomflowError: A field is missing, doubled, or was searched by a finder of another fold; the
            message names it.
    """
    tests = folds[folds["split"] == "test"]
    expected = set(zip(tests["fold"], tests["image"], strict=True))
    given = pd.Series([(field.fold, field.image) for field in fields], dtype="object")
    problems = (
        (given[given.duplicated()].tolist(), "was searched twice by the finder of"),
        (sorted(set(given) - expected), "was searched, but is no test field of"),
        (sorted(expected - set(given)), "is a test field, but was not searched by the finder of"),
    )
    for pairs, what in problems:
        if pairs:
            fold, image = pairs[0]
            raise GlomflowError(
                f"finder: image '{image}' {what} fold {fold} ({len(pairs)} such); run the finder's "
                "evaluation again"
            )


def finder_summary(
    fields: Sequence[FieldDetections],
    folds: pd.DataFrame,
    settings: Evaluation,
    *,
    seed: int,
    border: Border = "count",
) -> FinderSummary:
    """Summarises a finder.

    Args:
        fields: Every annotated field, searched by the finder of the fold that it is a test field of.
        folds: Columns fold, image and split.
        settings: Resamples and level of the intervals.
        seed: Seed of the resamples.
        border: What becomes of glomeruli that the border of the image cuts, see
            :func:`glomflow.evaluation.detection.match_field`.

    Returns:
        The summary; of no rows where no field is annotated (a model that came as a file).

    Raises:
        GlomflowError: A field is missing, doubled or was searched by the wrong finder, or an outline is
            unusable.
    """
    check_tested(fields, folds)
    if not fields:
        return FinderSummary(**{name: pd.DataFrame(columns=list(schema)) for name, schema in TABLES.items()})
    judged = _judge(sorted(fields, key=lambda field: field.image), border)
    draws = _resample(judged, settings, seed)
    rows = list(_pooled_rows(judged, draws, settings.confidence))
    for fold in sorted(judged.table["fold"].unique(), key=_fold_key):
        rows += _fold_rows(judged, fold)
    metrics = pd.DataFrame(rows).assign(border=border)
    return FinderSummary(
        metrics=metrics[list(FINDER_METRICS)],
        fields=judged.table[list(FINDER_FIELDS)],
        counts=judged.counts()[list(FINDER_COUNTS)],
        curve=_curve(judged.matches),
        outlines=pd.DataFrame(_outline_rows(judged), columns=list(FINDER_OUTLINES)),
    )


def compare_finders(
    finders: Mapping[str, Sequence[FieldDetections]],
    settings: Evaluation,
    *,
    seed: int,
    border: Border = "count",
) -> pd.DataFrame:
    """Compares the first finder with each of the others on the same fields.

    Args:
        finders: Name of a finder to the fields that it searched.
        settings: Resamples and level of the intervals.
        seed: Seed of the resamples.
        border: As of :func:`finder_summary`.

    Returns:
        FINDER_PAIRED: one row per other finder and metric of :data:`glomflow.evaluation.detection.POOLED`.

    Raises:
        GlomflowError: The finders did not search the same fields.
    """
    judged = {
        name: _judge(sorted(fields, key=lambda field: field.image), border)
        for name, fields in finders.items()
    }
    first, *others = judged
    images = judged[first].table["image"].tolist()
    rows: list[dict[str, Any]] = []
    for other in others:
        if judged[other].table["image"].tolist() != images:
            raise GlomflowError(f"finder: '{first}' and '{other}' did not search the same fields")
        pair = judged[first], judged[other]
        for row in _paired_rows(*pair, settings, seed):
            rows.append({"first": first, "other": other, **row})
    return adjust(pd.DataFrame(rows), ["metric"]).reindex(columns=list(FINDER_PAIRED))


def _given(values: pd.Series) -> pd.Series:
    return values.fillna("") != ""


def _fold_key(fold: str) -> tuple[int, str]:
    return (int(fold), "") if fold.isdigit() else (1 << 30, fold)


def _judge(fields: Sequence[FieldDetections], border: Border) -> _Judged:
    if not fields:
        raise GlomflowError("finder: there is no field to evaluate; annotate some images")
    matches = [match_field(field, border) for field in fields]
    rows = [
        {
            "fold": field.fold,
            "image": field.image,
            "patient": field.patient,
            "slide": field.slide,
            "annotated": match.annotated,
            "found": match.found,
            "hits": match.hits,
            "missed": match.annotated - match.hits,
            "wrong": match.found - match.hits,
            "left_out": match.left_out,
            "dice": match.dice,
            "mean_iou": match.iou / match.hits if match.hits else float("nan"),
            "ap50": float(average_precision([match])),
        }
        for field, match in zip(fields, matches, strict=True)
    ]
    table = pd.DataFrame(rows)
    table["group"] = np.unique(field_groups(table).to_numpy(dtype=str), return_inverse=True)[1]
    return _Judged(table, matches)


def _resample(judged: _Judged, settings: Evaluation, seed: int) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    blocks = [
        judged.evaluate(weights)
        for weights in resample_weights(np.zeros(judged.groups), settings.bootstrap, rng)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _sizes(table: pd.DataFrame) -> dict[str, int]:
    return {
        "fields": len(table),
        "slides": int(table["slide"].where(_given(table["slide"]), table["image"]).nunique()),
        "groups": int(table["group"].nunique()),
        "annotated": int(table["annotated"].sum()),
        "found": int(table["found"].sum()),
    }


def _pooled_rows(judged: _Judged, draws: Mapping[str, Floats], confidence: float) -> Iterator[dict[str, Any]]:
    sizes = _sizes(judged.table)
    for metric, found in judged.evaluate().items():
        value = float(found)
        lower, upper = percentile_interval(draws[metric], confidence)
        kind = "slides"
        if sizes["groups"] < 2 or np.isnan(value) or np.isnan(lower):
            lower = upper = np.nan
            kind = "none"
        elif collapsed(draws[metric]):
            lower, upper, kind = np.nan, np.nan, "none"
            if metric in POOLED:
                low, high = wilson(value * sizes["groups"], sizes["groups"], confidence)
                lower, upper, kind = float(low), float(high), "wilson"
        yield {
            "fold": ALL_FOLDS,
            "metric": metric,
            "value": value,
            "lower": lower,
            "upper": upper,
            "interval": kind,
            **sizes,
        }


def _fold_rows(judged: _Judged, fold: str) -> list[dict[str, Any]]:
    own = (judged.table["fold"] == fold).to_numpy()
    matches = [match for match, mine in zip(judged.matches, own, strict=True) if mine]
    part = _Judged(judged.table[own], matches)
    return [
        {
            "fold": fold,
            "metric": metric,
            "value": float(value),
            "lower": np.nan,
            "upper": np.nan,
            "interval": "none",
            **_sizes(part.table),
        }
        for metric, value in part.evaluate().items()
        if metric in (*POOLED, COUNTS[0])
    ]


def _paired_rows(first: _Judged, other: _Judged, settings: Evaluation, seed: int) -> Iterator[dict[str, Any]]:
    values = first.evaluate(), other.evaluate()
    draws = _resample(first, settings, seed), _resample(other, settings, seed)
    chances = _swap_test(first, other, settings.bootstrap, seed)
    for metric in POOLED:
        differences = draws[0][metric] - draws[1][metric]
        lower, upper = percentile_interval(differences, settings.confidence)
        if first.groups < 2 or collapsed(differences):
            lower = upper = np.nan
        yield {
            "metric": metric,
            "value": float(values[0][metric]),
            "other_value": float(values[1][metric]),
            "difference": float(values[0][metric] - values[1][metric]),
            "lower": lower,
            "upper": upper,
            "p_value": chances[metric],
        }


def _swap_test(first: _Judged, other: _Judged, most: int, seed: int) -> dict[str, float]:
    """Tests whether two finders differ, by swapping them on whole groups of slides.

    If neither were better, either could have made what the other found on a group. All ways of swapping
    are tried, or ``most`` random ones where there are more; P is the share whose difference is at least
    as large as the one seen (Noreen, Computer-intensive methods, 1989).
    """
    groups = first.groups
    if 2**groups <= most:
        swapped = np.array(list(itertools.product([0.0, 1.0], repeat=groups)))
    else:
        drawn = np.random.default_rng(seed).integers(0, 2, (most, groups)).astype(np.float64)
        swapped = np.concatenate([np.zeros((1, groups)), drawn])
    of_fields = swapped[:, first.table["group"].to_numpy()]
    matches = [*first.matches, *other.matches]
    sides = [
        pooled_metrics(matches, np.concatenate(parts, axis=1))
        for parts in ((1 - of_fields, of_fields), (of_fields, 1 - of_fields))
    ]
    result = {}
    for metric in POOLED:
        gaps = np.abs(sides[0][metric] - sides[1][metric])
        defined = gaps[~np.isnan(gaps)]
        usable = groups > 1 and not np.isnan(gaps[0])
        result[metric] = float((defined >= gaps[0] - 1e-12).mean()) if usable else float("nan")
    return result


def _outline_rows(judged: _Judged) -> Iterator[dict[str, Any]]:
    for fold, image, match in zip(judged.table["fold"], judged.table["image"], judged.matches, strict=True):
        key = {"fold": fold, "image": image}
        found = set(match.claimed[match.claimed >= 0].tolist())
        for place, (polygon, skipped) in enumerate(zip(match.truths, match.skipped, strict=True)):
            outcome = "left_out" if skipped else "hit" if place in found else "missed"
            yield {**key, "kind": "annotated", "outcome": outcome, "points": _points(polygon)}
        for place, polygon in enumerate(match.finds):
            outcome = "left_out" if match.ignored[0, place] else "hit" if match.hit[0, place] else "wrong"
            iou = match.claimed_iou[place] if match.claimed[place] >= 0 else float("nan")
            score = match.scores[place]
            points = _points(polygon)
            yield {**key, "kind": "found", "outcome": outcome, "score": score, "iou": iou, "points": points}


def _points(polygon: Points) -> str:
    return json.dumps(np.round(polygon, 1).tolist(), separators=(",", ":"))


def _curve(matches: Sequence[FieldMatches]) -> pd.DataFrame:
    frames = []
    for iou in CURVE_LEVELS:
        score, precision, recall = precision_recall(matches, IOU_LEVELS.index(iou))
        frames.append(pd.DataFrame({"iou": iou, "score": score, "precision": precision, "recall": recall}))
    return pd.concat(frames, ignore_index=True)
