"""Tables of the few-shot experiment's summary."""

from __future__ import annotations

from glomflow.tables import Column, Schema

SPACE_METRICS = {"alignment": "own_cosine", "similarity_gap": "cosine_gap", "silhouette": "silhouette"}
"""Metrics of a shared space of images and texts, each the mean of a column of the predictions."""

FEW_SHOT_METRICS = (
    "balanced_accuracy",
    "accuracy",
    "macro_auc",
    "macro_f1",
    "ece",
    "scaled_ece",
    "brier",
    "decision_margin",
    *SPACE_METRICS,
)
"""The metrics reported, the main one first."""

OPTIONAL = ("scaled_ece", *SPACE_METRICS)
"""What only some methods have: a temperature, or a shared space of images and texts."""

PROPORTIONS = ("balanced_accuracy", "accuracy", "macro_auc", "macro_f1")
"""Where the bootstrap sees no spread, Wilson's interval takes over."""

KEY = {
    "method": Column("string", "one of few_shot.methods, or an adapted model's name"),
    "shots": Column("int64", "labelled crops per class"),
}
_INTERVAL = {
    "lower": Column("float64", "lower end of the interval over slides and runs"),
    "upper": Column("float64", "upper end of the interval over slides and runs"),
}

_KIND = Column("string", "'slides' (two-way bootstrap), 'wilson' where it collapsed, 'none'")

_SCORE = {
    "mean": Column("float64", "mean over runs"),
    "sd": Column("float64", "standard deviation over runs, ddof = 0"),
    **_INTERVAL,
    "interval": _KIND,
    "runs": Column("int64", "runs"),
    "slides": Column("int64", "independent slides (patients) among the test crops of all runs"),
    "crops": Column("float64", "mean number of test crops in a run"),
}

SCORES: Schema = {
    **KEY,
    "metric": Column("string", "name of the metric"),
    **_SCORE,
}
"""Over all test crops. Where sites are held out, a run here is one round of all sites: every crop once."""

SITE_SCORES: Schema = {
    **KEY,
    "site": Column("string", "site that was held out, whose crops these are"),
    "metric": Column("string", "name of the metric"),
    **_SCORE,
    "classes": Column("int64", "classes that its test crops show"),
}
"""The same for the test crops of each site; no row unless sites are held out."""

PER_RUN: Schema = {
    **KEY,
    "run": Column("int64", "run, from 0"),
    "site": Column("string", "site that the run held out; missing if none"),
    "crops": Column("int64", "test crops"),
    "slides": Column("int64", "test slides"),
    **{name: Column("float64", name.replace("_", " ")) for name in FEW_SHOT_METRICS},
}

PAIRED: Schema = {
    "shots": KEY["shots"],
    "method": Column("string", "first method"),
    "other": Column("string", "method that it is compared with"),
    "metric": Column("string", "name of the metric"),
    "difference": Column("float64", "mean over runs of the first method's metric less the other's"),
    "sd": Column("float64", "standard deviation of the difference over runs, ddof = 0"),
    **_INTERVAL,
    "p_value": Column("float64", "two-sided, from the same bootstrap"),
    "p_holm": Column("float64", "p value adjusted for the numbers of shots (Holm)"),
}

CONFUSION: Schema = {
    **KEY,
    "true": Column("string", "true class"),
    "predicted": Column("string", "class of highest probability"),
    "count": Column("float64", "test crops, mean over runs"),
}

RECALLS: Schema = {
    **KEY,
    "class": Column("string", "true class"),
    "mean": Column("float64", "recall, mean over runs"),
    "sd": Column("float64", "standard deviation over runs, ddof = 0"),
    **_INTERVAL,
    "interval": _KIND,
    "slides": Column("int64", "independent slides (patients) that show the class, of all runs"),
    "crops": Column("float64", "test crops of the class, mean over runs"),
}

CALIBRATION: Schema = {
    **KEY,
    "probabilities": Column("string", "'stated', or 'scaled' by the temperature fitted on validation crops"),
    "low": Column("float64", "lower end of the bin of the highest probability, not in it"),
    "high": Column("float64", "upper end of the bin, in it"),
    "crops": Column("float64", "test crops in the bin, mean over runs"),
    "slides": Column("int64", "independent slides (patients) of these, of all runs"),
    "confidence": Column("float64", "mean highest probability of the bin's crops of all runs; or missing"),
    "accuracy": Column("float64", "share of these that are right; or missing"),
    **_INTERVAL,
    "interval": _KIND,
}

TABLES: dict[str, Schema] = {
    "metrics": SCORES,
    "per_run": PER_RUN,
    "comparisons": PAIRED,
    "confusion": CONFUSION,
    "sites": SITE_SCORES,
    "recalls": RECALLS,
    "calibration": CALIBRATION,
}
"""The tables by file name; each is written as ``<name>.parquet``."""

FEW_SHOT_FILES = tuple(f"{name}.parquet" for name in TABLES)
"""What ``FewShotSummary.write`` writes."""
