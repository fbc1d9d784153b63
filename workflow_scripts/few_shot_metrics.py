"""Summarises the few-shot runs."""

from pathlib import Path

from glomflow.jobs import job


def summarise(files, methods: list[str], settings: dict, seed: int):
    import pandas as pd

    from glomflow.config import Evaluation
    from glomflow.evaluation.draws import DRAWS
    from glomflow.evaluation.few_shot_summary import few_shot_summary
    from glomflow.tables import FEW_SHOT, GEOMETRY, read_table

    parts = [read_table(path, FEW_SHOT, open_ended=True) for path in files.predictions]
    rows = pd.concat(parts, ignore_index=True)
    order = {name: place for place, name in enumerate(methods)}
    rows = rows.sort_values("method", key=lambda names: names.map(order), kind="stable")
    told = [read_table(path, GEOMETRY) for path in files.geometry]
    geometry = pd.concat(told, ignore_index=True) if told else None
    drawn = read_table(files.draws, DRAWS)
    return few_shot_summary(rows, drawn, Evaluation(**settings), seed=seed, geometry=geometry)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        params = snakemake.params
        summary = summarise(snakemake.input, params.methods, params.settings, params.seed)
        summary.write(Path(snakemake.output.metrics).parent)
        rows = summary.metrics[summary.metrics["metric"] == "balanced_accuracy"]
        print(rows.to_string(index=False))
