"""Predicts the held-out fold with trained models."""

from pathlib import Path

from glomflow.jobs import job


def predict(inputs, outputs, params, fold: int, threads: int) -> None:
    from glomflow.training.runs import predict_runs, runs_of

    files = dict(inputs.items())
    predict_runs(
        runs_of(params.configs, params.seeds, files, files),
        fold,
        [Path(path) for path in outputs.predictions],
        [Path(path) for path in outputs.instances],
        threads=threads,
    )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        fold = int(snakemake.wildcards.fold)
        predict(snakemake.input, snakemake.output, snakemake.params, fold, snakemake.threads)
