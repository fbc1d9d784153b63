"""Evaluates the held-out predictions of all models of a task."""

from pathlib import Path

from glomflow.jobs import job


def evaluate(patients_path, excluded_path, predictions, config: dict, truth, task: str):
    import pandas as pd

    from glomflow.cohort.folds import task_patients
    from glomflow.config import Config
    from glomflow.evaluation.summary import summarise
    from glomflow.files import read_json
    from glomflow.tables import EXCLUDED, PATIENTS, PREDICTIONS, read_table

    patients = read_table(patients_path, PATIENTS)
    excluded = read_table(excluded_path, EXCLUDED)["patient"]
    frames = [read_table(path, PREDICTIONS, open_ended=True) for path in predictions]
    return summarise(
        pd.concat(frames, ignore_index=True),
        task_patients(patients[~patients["patient"].isin(excluded)].reset_index(drop=True), task),
        Config(**config),
        read_json(truth) if truth else None,
        task,
    )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        files = snakemake.input
        summary = evaluate(
            files.patients,
            files.excluded,
            files.predictions,
            snakemake.params.config,
            files.get("truth"),
            snakemake.wildcards.task,
        )
        summary.write(Path(snakemake.output.settings).parent)
        print(summary.pooled[summary.pooled["metric"] == "accuracy"].to_string(index=False))
