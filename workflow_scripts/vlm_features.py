"""Encodes the labelled glomeruli with the frozen image tower of a vision-language model."""

from pathlib import Path

from glomflow.jobs import job

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads, snakemake.resources.gpu):
        from glomflow.evaluation.adapted_jobs import Job, encode_crops

        task = Job.of(snakemake.input, snakemake.params, snakemake.threads)
        output = snakemake.output
        encode_crops(task, Path(output.features), Path(output.index), Path(output.description))
