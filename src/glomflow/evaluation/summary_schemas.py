"""The tables of a summary: their columns and meaning."""

from __future__ import annotations

from glomflow.evaluation.metrics import METRICS, ORDERED_METRICS
from glomflow.tables import Column, Schema

_MODEL = {"model": Column("string", "name of the model in the configuration")}
_INTERVAL = {
    "lower": Column("float64", "lower end of the interval"),
    "upper": Column("float64", "upper end of the interval"),
}
_METHOD = {
    "interval": Column(
        "string",
        "'percentile' or 'basic' bootstrap, 'score' where the bootstrap collapsed, 'none' if undefined",
    )
}
_METRICS = {
    **{name: Column("float64", f"{name.replace('_', ' ')}; missing if undefined") for name in METRICS},
    **{
        name: Column("float64", f"{name.replace('_', ' ')}; missing unless classes are ordered")
        for name in ORDERED_METRICS
    },
}
_REPEAT = {"repeat": Column("int64", "repeat of the cross-validation, from 0")}

MODELS: Schema = {
    **_MODEL,
    "modalities": Column("string", "modalities that the model sees, joined by '+'"),
    "patients": Column("int64", "patients evaluated"),
    "seeds": Column("int64", "training seeds that metrics are averaged over"),
    "repeats": Column("int64", "repeats of the cross-validation that metrics are averaged over"),
    "ceiling": Column("float64", "accuracy of a perfect reader of these modalities, by design (phantom)"),
    "realised_ceiling": Column("float64", "the same on the patients drawn (phantom)"),
}

PER_FOLD: Schema = {
    **_MODEL,
    **_REPEAT,
    "fold": Column("int64", "outer fold; numbers run on over repeats"),
    "seed": Column("int64", "training seed"),
    "patients": Column("int64", "test patients of the fold"),
    **_METRICS,
}

MEAN_SD: Schema = {
    **_MODEL,
    "metric": Column("string", "name of the metric"),
    "mean": Column("float64", "mean over folds of the fold's mean over seeds"),
    "sd": Column("float64", "standard deviation over the folds of all repeats, ddof = 0"),
    "folds": Column("int64", "folds in which the metric is defined"),
    "seeds": Column("int64", "training seeds"),
}

POOLED: Schema = {
    **_MODEL,
    "metric": Column("string", "name of the metric"),
    "value": Column("float64", "metric over all patients at once, mean over replicates"),
    **_INTERVAL,
    **_METHOD,
    "wilson_lower": Column("float64", "accuracy: lower end of Wilson's interval"),
    "wilson_upper": Column("float64", "accuracy: upper end of Wilson's interval"),
    "sd_replicates": Column("float64", "standard deviation over replicates (repeat and seed), ddof = 0"),
    "ceiling": Column("float64", "accuracy: see models"),
    "realised_ceiling": Column("float64", "accuracy: see models"),
}

PER_CLASS: Schema = {
    **_MODEL,
    "class": Column("string", "class"),
    "support": Column("int64", "patients of the class"),
    "predicted": Column("float64", "patients called this class, mean over replicates"),
    "sensitivity": Column("float64", "share of the class's patients called so"),
    "sensitivity_lower": Column("float64", "lower end of Wilson's interval"),
    "sensitivity_upper": Column("float64", "upper end of Wilson's interval"),
    "specificity": Column("float64", "share of the other patients not called so"),
    "specificity_lower": Column("float64", "lower end of Wilson's interval"),
    "specificity_upper": Column("float64", "upper end of Wilson's interval"),
    "precision": Column("float64", "share of the patients called so who are of the class"),
    "f1": Column("float64", "harmonic mean of sensitivity and precision"),
    "auc": Column("float64", "area under the one-vs-rest ROC curve"),
}

CONFUSION: Schema = {
    **_MODEL,
    "true": Column("string", "true class"),
    "predicted": Column("string", "class of highest probability"),
    "count": Column("float64", "patients, mean over replicates"),
}

COMPARISONS: Schema = {
    **_MODEL,
    "other": Column("string", "model that it is compared with"),
    "metric": Column("string", "name of the metric"),
    "difference": Column("float64", "metric of model less that of other"),
    **_INTERVAL,
    **_METHOD,
    "p_value": Column("float64", "two-sided p value"),
    "test": Column("string", "'exact': McNemar (sign flips with several replicates); 'bootstrap'"),
    "only_model": Column("float64", "patients that only model gets right, mean over replicates"),
    "only_other": Column("float64", "patients that only other gets right, mean over replicates"),
    "p_holm": Column("float64", "p value adjusted for the number of other models (Holm)"),
}

STRATA: Schema = {
    **_MODEL,
    "stratum": Column("string", "'site', 'modalities' or 'missing'"),
    "value": Column(
        "string", "the site; 'complete' or 'incomplete' for the model's modalities; the one that is missing"
    ),
    "patients": Column("int64", "patients in the stratum"),
    **_METRICS,
    "accuracy_lower": Column("float64", "lower end of Wilson's interval of the accuracy"),
    "accuracy_upper": Column("float64", "upper end of Wilson's interval of the accuracy"),
}

CALIBRATION: Schema = {
    **_MODEL,
    "bin": Column("int64", "bin of the highest probability, from 0"),
    "low": Column("float64", "lower edge, open but for the first bin"),
    "high": Column("float64", "upper edge, closed"),
    "patients": Column("float64", "patients in the bin, mean over replicates"),
    "confidence": Column("float64", "mean highest probability; missing for an empty bin"),
    "accuracy": Column("float64", "share called rightly; missing for an empty bin"),
}

ROC: Schema = {
    **_MODEL,
    "class": Column("string", "class, against the rest"),
    **_REPEAT,
    "seed": Column("int64", "training seed; one curve per repeat and seed"),
    "fpr": Column("float64", "false positive rate, from 0 to 1 along the curve"),
    "tpr": Column("float64", "true positive rate"),
    "threshold": Column("float64", "lowest probability called positive; infinite at the first point"),
}

TABLES: dict[str, Schema] = {
    "models": MODELS,
    "per_fold": PER_FOLD,
    "mean_sd": MEAN_SD,
    "pooled": POOLED,
    "per_class": PER_CLASS,
    "confusion": CONFUSION,
    "comparisons": COMPARISONS,
    "strata": STRATA,
    "calibration": CALIBRATION,
    "roc": ROC,
}
"""The tables of a summary by name; each is written as ``<name>.parquet``."""
