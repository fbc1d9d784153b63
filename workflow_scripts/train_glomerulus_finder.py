"""Trains the glomerulus finder of one fold."""

from pathlib import Path

from glomflow.cohort.bucket import cohort_files
from glomflow.jobs import job


def train(table: Path, folder: Path, settings: dict, seed: int, offline: bool, files, threads: int) -> None:
    from glomflow.config_finder import Finder
    from glomflow.tables import FINDER_TRAINING, read_table
    from glomflow.training.finder_fit import train_finder
    from glomflow.training.finder_shard import fields_of

    rows = read_table(table, FINDER_TRAINING)
    train_finder(
        fields_of(rows, folder, "train"),
        fields_of(rows, folder, "validation"),
        Finder(**settings),
        files,
        seed=seed,
        offline=offline,
        threads=threads,
    )


if __name__ == "__main__":
    gpus = snakemake.resources.gpu
    with job(snakemake.log[0], snakemake.threads, gpus), cohort_files(snakemake.params.folder) as folder:
        from glomflow.training.finder_types import FinderFiles
        from glomflow.training.seeds import derive_seed

        train(
            Path(snakemake.input.table),
            folder,
            snakemake.params.settings,
            derive_seed(snakemake.params.seed, "finder", snakemake.wildcards.finder),
            snakemake.params.offline,
            FinderFiles(
                Path(snakemake.output.weights),
                Path(snakemake.output.description),
                Path(snakemake.output.history),
                Path(snakemake.params.checkpoint),
            ),
            snakemake.threads,
        )
