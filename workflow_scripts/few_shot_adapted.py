"""Adapts a vision-language model to few labelled glomeruli and predicts those of the other slides."""

from pathlib import Path

from glomflow.jobs import job


def run(task, names: list[str], files):
    from glomflow.evaluation.adapted_jobs import adapt

    models = {name: task.settings.few_shot.adapted[name] for name in names}
    return adapt(task, models, Path(files.draws), Path(files.features), Path(files.index))


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads, snakemake.resources.gpu):
        from glomflow.evaluation.adapted_jobs import Job
        from glomflow.tables import FEW_SHOT, GEOMETRY, probability_columns, write_table

        task = Job.of(snakemake.input, snakemake.params, snakemake.threads)
        predictions, geometry = run(task, snakemake.params.models, snakemake.input)
        names = [column[2:] for column in predictions.columns if column.startswith("p_")]
        write_table(snakemake.output.predictions, predictions, FEW_SHOT, probability_columns(names))
        write_table(snakemake.output.geometry, geometry, GEOMETRY)
