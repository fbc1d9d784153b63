"""Summarises the few-shot runs."""

from pathlib import Path

from glomflow.jobs import job


def summarise(files, settings: dict, seed: int):
    from glomflow.config import Evaluation
    from glomflow.evaluation.draws import DRAWS
    from glomflow.evaluation.few_shot_summary import few_shot_summary
    from glomflow.tables import FEW_SHOT, read_table

    predictions = read_table(files.predictions, FEW_SHOT, open_ended=True)
    return few_shot_summary(predictions, read_table(files.draws, DRAWS), Evaluation(**settings), seed=seed)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        summary = summarise(snakemake.input, snakemake.params.settings, snakemake.params.seed)
        summary.write(Path(snakemake.output.metrics).parent)
        rows = summary.metrics[summary.metrics["metric"] == "balanced_accuracy"]
        print(rows.to_string(index=False))
