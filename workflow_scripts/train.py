"""Trains one model on one fold."""

from pathlib import Path

from glomflow.jobs import job


def train(inputs, config: dict, model: str, seed: int, outputs, checkpoint: Path, threads: int) -> None:
    from glomflow.config import Config
    from glomflow.tables import TRAINING, read_table
    from glomflow.training.fit import train_fold
    from glomflow.training.search import apply_search_files
    from glomflow.training.stores import stores_from_files

    train_fold(
        read_table(inputs.table, TRAINING),
        stores_from_files(dict(inputs.items())),
        apply_search_files(Config(**config), model, inputs.search),
        model,
        seed,
        out=Path(outputs.weights),
        history=Path(outputs.history),
        settings_json=Path(outputs.settings),
        checkpoint=checkpoint,
        threads=threads,
    )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        train(
            snakemake.input,
            snakemake.params.config,
            snakemake.wildcards.model,
            int(snakemake.wildcards.seed),
            snakemake.output,
            Path(snakemake.params.checkpoint),
            snakemake.threads,
        )
