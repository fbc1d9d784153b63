"""The section on what predictions rest on."""

from __future__ import annotations

import pandas as pd

from glomflow.evaluation.explanations import Checks
from glomflow.report.blocks import Block, Heading, Prose, Section, Table
from glomflow.report.figures_explanations import known_name
from glomflow.report.material import Material
from glomflow.report.numbers import (
    interval,
    number,
    percent,
    percent_cell,
    points_interval,
    signed_interval,
    thousands,
)
from glomflow.report.sections_data import figure
from glomflow.report.tables import Record, ends, records
from glomflow.tables_explanations import ATTENTION_KIND

METHODS = {
    "grad_cam": "Grad-CAM on the encoder's last feature map (Selvaraju 2017)",
    "integrated_gradients": "integrated gradients (Sundararajan 2017)",
}
DEPOSITS = "Deposits that the phantom drew are outlined in orange."


def explanations_section(material: Material) -> Section | None:
    """What predictions rest on, and how far that can be trusted."""
    checks = material.explanation_checks
    if checks is None:
        return None
    further = DEPOSITS if material.is_phantom else ""
    blocks: list[Block] = [
        Prose(_opening(material)),
        *figure(material, "explanation_panels", further),
        Heading("What each modality contributes"),
        Prose(_contribution_words(checks)),
        *figure(material, "explanation_contributions"),
        Heading("How far this can be trusted"),
        Prose(_verdicts(checks, material)),
        *figure(material, "explanation_checks"),
        check_table(checks.summary, material),
    ]
    return Section("explanations", "What the predictions rest on", blocks)


def _opening(material: Material) -> str:
    method = METHODS[material.config.diagnosis.explanations.attribution]
    names = " and ".join(material.model_label(name) for name in material.config.diagnosis.explained)
    return (
        f"For every test patient of {names}: maps of what speaks for the predicted class ({method}), the "
        "attention between modalities, and what each modality contributes. An explanation says what the "
        "model used, not what is true of the patient, and only as far as the checks below bear it out."
    )


def _contribution_words(checks: Checks) -> str:
    shown = checks.by_class[checks.by_class["predicted"] == "all"]
    first = shown[shown["model"] == shown["model"].iloc[0]].sort_values("value", ascending=False)
    parts = [f"{row['modality']} {points_interval(*ends(row))}" for row in records(first)]
    return (
        "Shapley values share the probability of the predicted class, less its share of the training "
        "patients, out among the modalities that a patient has: each gets what it adds, averaged over all "
        f"orders. On average: {'; '.join(parts)}."
    )


def _verdicts(checks: Checks, material: Material) -> str:
    """Says, check by check, whether the maps passed for the first model."""
    summary = checks.summary
    own = summary[(summary["model"] == summary["model"].iloc[0]) & (summary["group"] == "all")]
    said = []
    for row in records(own):
        if row["check"] in ("localisation", "ranking"):
            said.append(f"{known_name(row)}: {_against(row, 'chance')}")
        elif row["check"] == "faithfulness":
            better = row["difference"] < 0 if row["measure"] == "deletion" else row["difference"] > 0
            clear = not row["difference_lower"] <= 0 <= row["difference_upper"]
            words = "follows the map" if better and clear else "does not follow the map"
            said.append(f"{row['measure']}: the prediction {words} more than a random order")
    if not material.is_phantom:
        said.append("where maps should point is not known in this cohort, so that this was not checked")
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}."


def _against(row: Record, what: str) -> str:
    if row["difference_lower"] > 0:
        return f"above {what}"
    return f"below {what}" if row["difference_upper"] < 0 else f"not told from {what}"


def check_table(summary: pd.DataFrame, material: Material) -> Table:
    """Lists the checks of all explained models, on all patients."""
    rows = []
    model = ""
    for row in records(summary[summary["group"] == "all"]):
        name = material.model_label(str(row["model"]))
        rows.append(("" if name == model else name, *_cells(row)))
        model = name
    return Table(
        caption="Checks of the explanations.",
        headers=("model", "check", "patients", "value", "by chance", "difference"),
        rows=rows,
        text_columns=frozenset({0, 1}),
        note="By chance: the share of the area or of the bag; for deletion and insertion the area under the "
        "curve of a random order. Deletion is better the lower, insertion the higher; agreement with "
        "randomised models is better the lower. Glomeruli lie at the centre of their crops: a map that "
        "always points to the centre does well there.",
    )


def _cells(row: Record) -> tuple[str, str, str, str, str]:
    kind = "attention" if row["kind"] == ATTENTION_KIND else "maps"
    check, modality = row["check"], row["modality"]
    patients = thousands(int(row["patients"]))
    if check in ("localisation", "ranking"):
        value = percent_cell(*ends(row))
        difference = points_interval(*ends(row, "difference", "difference_"))
        return known_name(row), patients, value, percent(row["reference"]), difference
    if check == "faithfulness":
        difference = signed_interval(*ends(row, "difference", "difference_"))
        what = f"{row['measure']}: area under the curve"
        return what, patients, interval(*ends(row)), number(row["reference"]), difference
    if check == "randomised":
        words = {"rank_correlation": "rank correlation", "similarity": "structural similarity"}
        what = f"{modality} {kind}: {words[row['measure']]} with randomised weights"
        return what, patients, interval(*ends(row)), "–", "–"
    words = {
        "additivity": "contributions: largest error of their sum",
        "completeness": "integrated gradients: largest relative error of their sum",
    }
    return words[check], patients, f"{row['value']:.1e}".replace("e-", "e−"), "–", "–"
