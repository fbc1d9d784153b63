"""How well glomeruli are found: matching of outlines, average precision, Dice, counts.

A found glomerulus is right if its outline and that of an annotated one overlap enough, by their
intersection over union (IoU); each annotated one can be found once, a second find of it is wrong.
Matching and average precision follow the COCO evaluation (Lin et al., ECCV 2014): finds claim
annotated glomeruli in order of their score, each the one of highest IoU that is still free; precision
is made non-increasing and averaged over 101 levels of recall. Unlike COCO's the number of finds per
image has no limit.

Every metric takes, if asked, weights: how often each field counts in each resample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from glomflow.errors import GlomflowError
from glomflow.evaluation.detection_overlap import (
    Overlaps,
    Points,
    check_polygon,
    clip,
    overlaps,
    union_areas,
)

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

Border = Literal["count", "ignore"]
"""What becomes of glomeruli that the border of the image cuts, see :func:`match_field`."""

IOU_LEVELS: tuple[float, ...] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Overlaps that average precision is averaged over, as COCO does."""

RECALL_LEVELS = np.linspace(0.0, 1.0, 101)

BORDER_SHARE = 0.02
"""An outline nearer to the border than 1 px and this share of its extent is cut by it."""

POOLED = (
    "ap50",
    "ap",
    "dice",
    "field_dice",
    "f1",
    "precision",
    "recall",
    "mean_iou",
    "panoptic_quality",
)
"""Metrics of :func:`pooled_metrics`, all 0 to 1."""

_BLOCK_ELEMENTS = 4_000_000


@dataclass(frozen=True, eq=False)
class FieldDetections:
    """A field with what was annotated and what was found in it.

    Attributes:
        image: Image identifier.
        patient: Patient identifier; missing values join nothing.
        slide: Slide identifier.
        fold: Fold of the finder that was applied.
        width: Width of the image, px.
        height: Height of the image, px.
        um_per_px: Pixel size, µm/px; weighs the areas of fields against each other.
        annotated: (K, 2) x and y of each annotated glomerulus, px.
        found: (K, 2) x and y of each found one, px.
        scores: Score of each found one; higher is surer.
    """

    image: str
    patient: str
    slide: str
    fold: str
    width: float
    height: float
    um_per_px: float
    annotated: Sequence[Points]
    found: Sequence[Points]
    scores: Sequence[float]


@dataclass(frozen=True, eq=False)
class FieldMatches:
    """What became of a field's glomeruli; T levels of overlap, n finds in order of their score.

    Attributes:
        scores: (n,) scores, highest first.
        hit: (T, n) whether the find is a counted annotated glomerulus.
        ignored: (T, n) whether the find counts as neither right nor wrong.
        finds: n outlines, cut off at the border of the image, px.
        claimed: (n,) which of ``truths`` each find claimed at the first level; -1 if none.
        claimed_iou: (n,) IoU with it, or 0.
        truths: Annotated outlines, cut off at the border of the image, px.
        skipped: For each of ``truths``, whether it does not count (cut by the border).
        areas: Area annotated, area found and area of both, µm², of what counts at the first level.
    """

    scores: Floats
    hit: Flags
    ignored: Flags
    finds: list[Points]
    claimed: NDArray[np.int64]
    claimed_iou: Floats
    truths: list[Points]
    skipped: Flags
    areas: tuple[float, float, float]

    @property
    def annotated(self) -> int:
        """Annotated glomeruli that count."""
        return int((~self.skipped).sum())

    @property
    def left_out(self) -> int:
        """Annotated glomeruli that do not count."""
        return int(self.skipped.sum())

    @property
    def iou(self) -> float:
        """Sum of the IoU of the hits at the first level."""
        return float(self.claimed_iou[self.hit[0]].sum())

    @property
    def hits(self) -> int:
        """Glomeruli found at the first level."""
        return int(self.hit[0].sum())

    @property
    def found(self) -> int:
        """Finds that count at the first level."""
        return int((~self.ignored[0]).sum())

    @property
    def dice(self) -> float:
        """Dice coefficient of the joined areas; NaN if nothing was annotated or found."""
        annotated, found, both = self.areas
        return 2 * both / (annotated + found) if annotated + found > 0 else float("nan")


def is_cut(polygon: Points, width: float, height: float) -> bool:
    """Tells whether the border of an image cuts an outline.

    Args:
        polygon: (K, 2) x and y, px.
        width: Width of the image, px.
        height: Height of the image, px.
    """
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    margin = max(1.0, BORDER_SHARE * float((high - low).max()))
    return bool((low <= margin).any() or high[0] >= width - margin or high[1] >= height - margin)


def match_field(
    field: FieldDetections, border: Border = "count", levels: Sequence[float] = IOU_LEVELS
) -> FieldMatches:
    """Matches found to annotated glomeruli at every level of overlap.

    Outlines are cut off at the border of the image first. With ``border='count'`` cut glomeruli count
    as any other. With ``'ignore'`` annotated ones that the border cuts are left out, and so are finds
    that match one of these, and finds that the border cuts and that match nothing: for annotators who
    skip what is not whole.

    Args:
        field: The field.
        border: ``'count'`` or ``'ignore'``.
        levels: IoU from which a find is right, in ascending order.

    Returns:
        The matches.

    Raises:
        GlomflowError: An outline or a score is unusable, or scores and finds differ in number; the
            message names the image.
    """
    annotated = _usable(field, field.annotated, "annotated")
    found = _usable(field, field.found, "found")
    scores = _scores(field)[[place for place, _ in found]]
    order = np.argsort(-scores, kind="stable")
    finds = [found[place][1] for place in order]
    truths = [polygon for _, polygon in annotated]
    ignore = border == "ignore"
    skipped = np.array([ignore and is_cut(p, field.width, field.height) for p in truths], dtype=bool)
    at_edge = np.array([ignore and is_cut(p, field.width, field.height) for p in finds], dtype=bool)
    pairs = overlaps(finds, truths)
    hit = np.zeros((len(levels), len(finds)), dtype=bool)
    ignored = np.zeros_like(hit)
    claims = [_claim(pairs, len(finds), skipped, level) for level in levels]
    for row, (owner, _) in enumerate(claims):
        claimed = owner >= 0
        hit[row, claimed] = ~skipped[owner[claimed]]
        ignored[row] = (claimed & ~hit[row]) | (~claimed & at_edge)
    kept = [polygon for polygon, out in zip(finds, ignored[0], strict=True) if not out]
    counted = [polygon for polygon, out in zip(truths, skipped, strict=True) if not out]
    covered, scale = union_areas(counted, kept), field.um_per_px**2
    areas = (covered.first * scale, covered.second * scale, covered.both * scale)
    return FieldMatches(scores[order], hit, ignored, finds, *claims[0], truths, skipped, areas)


def _usable(field: FieldDetections, polygons: Sequence[Points], kind: str) -> list[tuple[int, Points]]:
    """Returns the outlines within the image, cut off at its border, with their places."""
    kept = []
    for place, polygon in enumerate(polygons):
        points = check_polygon(polygon, f"image '{field.image}', {kind} outline {place + 1}")
        within = clip(points, field.width, field.height)
        if within is not None:
            kept.append((place, within))
    return kept


def _scores(field: FieldDetections) -> Floats:
    scores = np.asarray(field.scores, dtype=np.float64).reshape(-1)
    if len(scores) != len(field.found):
        raise GlomflowError(
            f"image '{field.image}': {len(field.found)} found outlines, but {len(scores)} scores; "
            "each needs one"
        )
    if not np.isfinite(scores).all():
        place = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise GlomflowError(f"image '{field.image}', found outline {place + 1}: its score is {scores[place]}")
    return scores


def _claim(pairs: Overlaps, finds: int, skipped: Flags, level: float) -> tuple[NDArray[np.int64], Floats]:
    """Lets finds claim annotated glomeruli in turn; returns whose each is (-1: none) and the IoU."""
    owner, share = np.full(finds, -1, dtype=np.int64), np.zeros(finds)
    taken = np.zeros(len(skipped), dtype=bool)
    starts = np.searchsorted(pairs.first, np.arange(finds + 1))
    least = min(level, 1 - 1e-10)
    for find in range(finds):
        best: tuple[bool, float] = (False, 0.0)
        for place in range(starts[find], starts[find + 1]):
            truth, iou = int(pairs.second[place]), float(pairs.iou[place])
            rank = (not skipped[truth], iou)
            if not taken[truth] and iou >= least and rank >= best:
                best, owner[find], share[find] = rank, truth, iou
        if owner[find] >= 0:
            taken[owner[find]] = True
    return owner, share


def average_precision(
    matches: Sequence[FieldMatches], weights: Floats | None = None, *, level: int = 0
) -> Floats:
    """Returns the average precision at one level of overlap, over all fields together.

    Args:
        matches: Matches of every field.
        weights: (fields,) or (R, fields), how often each counts; once if None.
        level: Which of the levels that were matched.

    Returns:
        () or (R,), 0 to 1; NaN where no annotated glomerulus counts.
    """
    rows = _rows(weights, len(matches))
    totals = rows @ np.array([match.annotated for match in matches], dtype=np.float64)
    scores, hit, field = _ranked(matches, level)
    result = np.full(len(rows), np.nan)
    block = max(1, _BLOCK_ELEMENTS // max(1, len(scores)))
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        counts = rows[part][:, field]
        result[part] = [
            _interpolated(tp, fp, total)
            for tp, fp, total in zip(
                np.cumsum(counts * hit, axis=1), np.cumsum(counts * ~hit, axis=1), totals[part], strict=True
            )
        ]
    return _like(result, weights)


def _ranked(matches: Sequence[FieldMatches], level: int) -> tuple[Floats, Flags, NDArray[np.int64]]:
    """Returns score, hit and field of all finds that count, the surest first."""
    empty = np.zeros(0)
    kept = [~match.ignored[level] for match in matches]
    scores = np.concatenate([empty, *(m.scores[k] for m, k in zip(matches, kept, strict=True))])
    hit = np.concatenate([empty, *(m.hit[level][k] for m, k in zip(matches, kept, strict=True))]) > 0
    field = np.repeat(np.arange(len(matches)), [int(k.sum()) for k in kept])
    order = np.argsort(-scores, kind="stable")
    return scores[order], hit[order], field[order]


def _interpolated(right: Floats, wrong: Floats, total: float) -> float:
    """Returns the mean over recall levels of the highest precision at that recall or more."""
    if not total > 0:
        return float("nan")
    if not len(right):
        return 0.0
    precision = right / np.maximum(right + wrong, 1e-12)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(right / total, RECALL_LEVELS, side="left")
    return float(np.append(envelope, 0.0)[place].mean())


def precision_recall(matches: Sequence[FieldMatches], level: int = 0) -> tuple[Floats, Floats, Floats]:
    """Returns the curve of precision over recall as the least score that counts falls.

    Args:
        matches: Matches of every field.
        level: Which of the levels that were matched.

    Returns:
        Score, precision and recall after every score that occurs, highest first; empty if nothing was
        found or no annotated glomerulus counts.
    """
    scores, hit, _ = _ranked(matches, level)
    total = sum(match.annotated for match in matches)
    if not total or not len(scores):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    last = np.append(scores[1:] != scores[:-1], True)
    right, place = np.cumsum(hit), np.arange(1, len(hit) + 1)
    return scores[last], (right / place)[last], (right / total)[last]


def pooled_metrics(matches: Sequence[FieldMatches], weights: Floats | None = None) -> dict[str, Floats]:
    """Returns the metrics of :data:`POOLED` over all fields together.

    ``ap50``: average precision at the first level (IoU .5); ``ap``: its mean over the levels (.5 to
    .95). At the first level: ``precision``, ``recall`` and ``f1``; ``mean_iou`` of the hits; and their
    product with F1, ``panoptic_quality`` (Kirillov et al., CVPR 2019, for one class). ``dice``: Dice
    coefficient of the joined areas of all fields; ``field_dice``: its mean over the fields in which
    something was annotated or found.

    Args:
        matches: Matches of every field.
        weights: (fields,) or (R, fields), how often each counts; once if None.

    Returns:
        Metric to () or (R,); NaN where it is undefined.

    Raises:
        GlomflowError: There is no field.
    """
    if not matches:
        raise GlomflowError("finder: there is no field to evaluate")
    rows = _rows(weights, len(matches))
    table = np.array([[m.hits, m.found, m.annotated, m.iou, *m.areas] for m in matches], dtype=np.float64)
    hits, found, annotated, shares, area, area_found, both = (rows @ table).T
    dices = np.array([match.dice for match in matches])
    defined = ~np.isnan(dices)
    aps = np.array([average_precision(matches, rows, level=n) for n in range(len(matches[0].hit))])
    values = {
        "ap50": aps[0],
        "ap": aps.mean(axis=0),
        "dice": divide(2 * both, area + area_found),
        "field_dice": divide(rows @ np.where(defined, dices, 0.0), rows @ defined.astype(np.float64)),
        "f1": divide(2 * hits, found + annotated),
        "precision": divide(hits, found),
        "recall": divide(hits, annotated),
        "mean_iou": divide(shares, hits),
        "panoptic_quality": divide(2 * shares, found + annotated),
    }
    return {name: _like(values[name], weights) for name in POOLED}


COUNTS = ("count_bias", "count_lower", "count_upper", "count_concordance")
"""Metrics of :func:`count_agreement`."""


def count_agreement(annotated: Floats, found: Floats, weights: Floats | None = None) -> Mapping[str, Floats]:
    """Compares the numbers of glomeruli per slide.

    ``count_bias``: mean of found less annotated; ``count_lower`` and ``count_upper``: limits of
    agreement, 1.96 standard deviations around it (Bland & Altman, Lancet 1986);
    ``count_concordance``: Lin's coefficient (Biometrics 1989).

    Args:
        annotated: (slides,) annotated glomeruli.
        found: (slides,) found ones.
        weights: (slides,) or (R, slides), how often each counts; once if None.

    Returns:
        Metric to () or (R,); NaN where it is undefined (all but the bias of a single slide).
    """
    rows = _rows(weights, len(annotated))
    size = rows.sum(axis=1)
    truth, finds = np.asarray(annotated, dtype=np.float64), np.asarray(found, dtype=np.float64)
    bias = divide(rows @ (finds - truth), size)
    spread = (rows * ((finds - truth)[None] - bias[:, None]) ** 2).sum(axis=1)
    sd = np.sqrt(divide(spread, np.where(size > 1, size - 1, 0.0)))
    means = [divide(rows @ values, size)[:, None] for values in (truth, finds)]
    off = truth[None] - means[0], finds[None] - means[1]
    moments = [(rows * one * other).sum(axis=1) for one, other in ((off[0], off[1]), (off[0], off[0]))]
    within = moments[1] + (rows * off[1] ** 2).sum(axis=1)
    values = {
        "count_bias": bias,
        "count_lower": bias - 1.96 * sd,
        "count_upper": bias + 1.96 * sd,
        "count_concordance": divide(2 * moments[0], within + size * bias**2),
    }
    return {name: _like(values[name], weights) for name in COUNTS}


def divide(above: Floats, below: Floats) -> Floats:
    """Divides, with NaN where the denominator is 0."""
    above, below = np.broadcast_arrays(above, below)
    result: Floats = np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
    return result


def _rows(weights: Floats | None, count: int) -> Floats:
    rows = np.ones((1, count)) if weights is None else np.atleast_2d(np.asarray(weights, dtype=np.float64))
    if rows.shape[-1] != count:
        raise GlomflowError(f"finder: weights of shape {rows.shape} for {count} rows")
    return rows


def _like(values: Floats, weights: Floats | None) -> Floats:
    single = weights is None or np.ndim(weights) == 1
    result: Floats = values[0] if single else values
    return result
