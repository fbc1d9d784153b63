"""Searches the settings of one model in one fold."""

from pathlib import Path

from glomflow.jobs import job


def search(inputs, config: dict, model: str, fold: int, outputs, journal: Path, threads: int) -> None:
    from glomflow.config import Config
    from glomflow.tables import TRAINING, read_table
    from glomflow.training.search import search_fold
    from glomflow.training.stores import stores_from_files

    search_fold(
        read_table(inputs.table, TRAINING),
        stores_from_files(dict(inputs.items())),
        Config(**config),
        model,
        fold,
        out=Path(outputs.chosen),
        trials=Path(outputs.trials),
        journal=journal,
        threads=threads,
    )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads, snakemake.resources.gpu):
        search(
            snakemake.input,
            snakemake.params.config,
            snakemake.wildcards.model,
            int(snakemake.wildcards.fold),
            snakemake.output,
            Path(snakemake.params.journal),
            snakemake.threads,
        )
