"""Compares the patches of a few test glomeruli with the texts of the classes."""

from pathlib import Path

from glomflow.jobs import job

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads, snakemake.resources.gpu):
        from glomflow.evaluation.adapted_jobs import Job
        from glomflow.evaluation.similarity import similarity_maps, write_similarity

        files, output = snakemake.input, snakemake.output
        task = Job.of(files, snakemake.params, snakemake.threads)
        found = similarity_maps(task, Path(files.draws), Path(files.features), Path(files.index))
        write_similarity(found, task.backbone, Path(output.maps), Path(output.index), Path(output.said))
