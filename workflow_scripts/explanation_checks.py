"""Checks explanations: against what a phantom drew, by deletion, and against randomised models."""

from pathlib import Path

from glomflow.cohort.bucket import cohort_files
from glomflow.jobs import job


def check(files, params, folder: Path):
    import pandas as pd

    from glomflow.config import Config
    from glomflow.evaluation.explanations_files import check_files
    from glomflow.tables import CROPS, IMAGES, INVENTORY, PATIENTS, read_table

    def gather(paths, schema):
        tables = [read_table(path, schema) for path in paths]
        return pd.concat(tables, ignore_index=True) if tables else None

    return check_files(
        [Path(path) for path in files.explanation_maps],
        [Path(path) for path in files.explanation_index],
        [Path(path) for path in files.explanation_contributions],
        [Path(path) for path in files.explanation_curves],
        read_table(files.patients, PATIENTS),
        Config(**params.config),
        crops={"TEM": gather(files.tem_index, CROPS), "OM": gather(files.om_index, CROPS)},
        images=read_table(files.images, IMAGES),
        inventory=read_table(files.inventory, INVENTORY),
        truth=Path(files.truth) if files.truth else None,
        folder=folder,
    )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads), cohort_files(snakemake.params.folder) as folder:
        checks = check(snakemake.input, snakemake.params, folder)
        checks.write(Path(snakemake.output[0]).parent)
        print(checks.summary.to_string(index=False))
