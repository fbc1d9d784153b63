"""The tables of explanations: what predictions rest on, and how far that can be trusted."""

from __future__ import annotations

from glomflow.tables import Column, Schema

ATTENTION_KIND = "cmsa"
"""Kind of the maps of attention between modalities."""

_KEY: Schema = {
    "patient": Column("string", "patient identifier"),
    "model": Column("string", "name of the model"),
    "fold": Column("int64", "outer fold"),
    "seed": Column("int64", "training seed"),
}

MAPS: Schema = {
    "row": Column("int64", "row of the memory map"),
    **_KEY,
    "draw": Column("int64", "0: the trained model; from 1: a model whose weights were drawn afresh"),
    "modality": Column("string", "OM, IM or TEM"),
    "crop": Column("string", "crop that the map lies over; missing where several crops were pooled"),
    "kind": Column("string", "grad_cam, integrated_gradients, or cmsa: attention from other modalities"),
    "height": Column("int64", "rows of the map; what lies beyond them in the memory map is NaN"),
    "width": Column("int64", "columns of the map"),
    "weight": Column("float64", "weight of the instance in its bag; missing where none is pooled"),
    "value": Column("float64", "mean of the map's positive part: how much the crop speaks for the class"),
}
"""One row per map of a memory map (M, H, W) float32 beside it."""

CONTRIBUTIONS: Schema = {
    **_KEY,
    "predicted": Column("string", "class of highest probability, which is explained"),
    "modality": Column("string", "OM, IM or TEM, if the patient has it"),
    "contribution": Column("float64", "Shapley value: points of probability, -1 to 1"),
    "alone": Column("float64", "probability of the class given this modality alone"),
    "p_all": Column("float64", "probability of the class given all that the patient has"),
    "p_empty": Column("float64", "share of the class among the training patients"),
    "completeness": Column(
        "float64",
        "integrated gradients: sum of all maps less the difference of the logit to the baseline, as a share "
        "of that difference; missing for grad_cam",
    ),
}
"""One row per test patient, model, seed and modality that the patient has."""

CURVES: Schema = {
    **_KEY,
    "order": Column("string", "map: by the map; random: mean of several random orders"),
    "direction": Column("string", "deletion: from the first token on; insertion: into an empty patient"),
    "share": Column("float64", "share of the tokens removed or put in, 0 to 1"),
    "probability": Column("float64", "probability of the class that is explained"),
}
"""Deletion and insertion: one row per test patient, order, direction and step."""
