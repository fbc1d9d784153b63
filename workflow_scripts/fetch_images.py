"""Puts a shard's retrieved images into the cohort folder, once their digests are checked."""

from pathlib import Path

from glomflow.jobs import job

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.cohort.fetch import put_in_place

        count = put_in_place(
            snakemake.params.downloads,
            list(snakemake.input),
            Path(snakemake.params.folder),
            snakemake.output[0],
            snakemake.params.sheet,
        )
        print(f"{count} files fetched, {len(snakemake.params.downloads) - count} lay there already")
