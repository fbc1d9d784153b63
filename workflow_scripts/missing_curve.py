"""Accuracy over the rate at which modalities are missing."""

from glomflow.jobs import job


def curve(files, config: dict, task: str):
    import pandas as pd

    from glomflow.cohort.folds import task_patients
    from glomflow.config import Config
    from glomflow.evaluation.missing import missing_curve
    from glomflow.tables import EXCLUDED, PATIENTS, SUBSETS, read_table

    patients = read_table(files.patients, PATIENTS)
    excluded = read_table(files.excluded, EXCLUDED)["patient"]
    eligible = patients[~patients["patient"].isin(excluded)].reset_index(drop=True)
    frames = [read_table(path, SUBSETS, open_ended=True) for path in files.subsets]
    return missing_curve(
        pd.concat(frames, ignore_index=True), task_patients(eligible, task), Config(**config), task
    )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.evaluation.missing import MISSING
        from glomflow.tables import write_table

        found = curve(snakemake.input, snakemake.params.config, snakemake.wildcards.task)
        write_table(snakemake.output[0], found, MISSING)
        print(found[found["metric"] == "accuracy"].to_string(index=False))
