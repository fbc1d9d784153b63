"""Checks the sheets as a whole."""

from pathlib import Path

from glomflow.cohort.bucket import cohort_files
from glomflow.jobs import job


def read(params, folder: Path):
    from glomflow.cohort.source import read_source
    from glomflow.config import Cohort

    return read_source(
        Cohort(**params.settings),
        folder,
        n_splits=params.n_splits,
        shards=params.shards,
        diagnosis=params.diagnosis,
    )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads), cohort_files(snakemake.params.folder) as folder:
        from glomflow.cohort.sheets import shards_advice
        from glomflow.tables import IMAGES, PATIENTS, write_table

        patients, images = read(snakemake.params, folder)
        write_table(snakemake.output.patients, patients, PATIENTS)
        write_table(snakemake.output.images, images, IMAGES)
        print(f"{len(patients)} patients, {len(images)} images, {snakemake.params.shards} shards")
        advice = shards_advice(len(patients), snakemake.params.shards)
        if advice:
            print(advice)
