"""Writes the images of one shard's patients; the files are the cohort rule's to check."""

from pathlib import Path

from glomflow.cohort.bucket import cohort_files
from glomflow.jobs import job


def read(params, folder: Path, shard: int):
    from glomflow.cohort.source import read_source
    from glomflow.config import Cohort

    _, images = read_source(
        Cohort(**params.settings),
        folder,
        n_splits=params.n_splits,
        shards=params.shards,
        diagnosis=params.diagnosis,
        shard=shard,
    )
    return images


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads), cohort_files(snakemake.params.folder) as folder:
        from glomflow.tables import IMAGES, write_table

        images = read(snakemake.params, folder, int(snakemake.wildcards.shard))
        write_table(snakemake.output[0], images, IMAGES)
        print(f"{images['patient'].nunique()} patients, {len(images)} images")
