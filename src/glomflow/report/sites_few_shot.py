"""Words and the table of few-shot runs that hold sites out."""

from __future__ import annotations

import pandas as pd

from glomflow.config import FewShot
from glomflow.report.blocks import Table
from glomflow.report.numbers import count, interval, number, percent
from glomflow.report.tables import ends, keyed, text

METRICS = {"balanced_accuracy": "balanced accuracy", "macro_auc": "macro AUC", "macro_f1": "macro F1"}


def unseen(settings: FewShot) -> str:
    """Says what test glomeruli are of that was not learned from."""
    return "sites" if settings.protocol == "leave_one_site_out" else "slides"


def drawn_words(settings: FewShot, runs: int) -> str:
    """Says what the runs of the summary are.

    Args:
        settings: The section.
        runs: Runs, or rounds of all sites.
    """
    if settings.protocol == "leave_one_site_out":
        return f"Each site was held out in turn, in {count(runs, 'round')} that drew labelled glomeruli anew."
    return f"{count(runs, 'run')} drew slides and labelled glomeruli anew."


def split_words(settings: FewShot) -> str:
    """Says which slides are trained on and tested."""
    if settings.protocol == "leave_one_site_out":
        return (
            f"Each site is held out {count(settings.runs, 'time')}: the labelled glomeruli are of the other "
            "sites, and all glomeruli of the site are the test set, the same for every method and number of "
            "shots. A round of all sites tests every glomerulus once, and counts as one run."
        )
    return (
        f"In each of {settings.runs} runs, {percent(settings.train_slide_fraction)} of the slides give "
        "the labelled glomeruli, and all glomeruli of the other slides are the test set, the same for "
        "every method and number of shots."
    )


def few_shot_sites_table(sites: pd.DataFrame, methods: dict[str, str]) -> Table | None:
    """Lists the metrics of each held-out site by method, at the largest number of shots.

    Args:
        sites: SITE_SCORES.
        methods: What to call each method.

    Returns:
        The table, or None if no site was held out.
    """
    if sites.empty:
        return None
    cells = keyed(sites, "method", "shots", "site", "metric")
    rows = []
    for method in sites["method"].unique():
        own = sites[sites["method"] == method]
        shots = int(own["shots"].max())
        for place, site in enumerate(sorted(own["site"].unique())):
            found = [cells[method, shots, site, metric] for metric in METRICS]
            rows.append(
                (
                    methods.get(method, text(method)) if place == 0 else "",
                    str(shots) if place == 0 else "",
                    text(site),
                    f"{found[0]['crops']:.0f} of {count(int(found[0]['slides']), 'slide')}",
                    str(found[0]["classes"]),
                    interval(*ends(found[0], "mean")),
                    number(found[0]["sd"]),
                    *(interval(*ends(row, "mean")) for row in found[1:]),
                )
            )
    words = list(METRICS.values())
    return Table(
        caption="Each held-out site, at the largest number of shots: mean over its runs, with intervals.",
        headers=("method", "shots", "site", "glomeruli", "classes", words[0], "SD over runs", *words[1:]),
        rows=rows,
        note="A site that does not show every class is judged on those that it shows.",
    )
