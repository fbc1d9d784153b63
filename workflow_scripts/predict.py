"""Predicts the held-out fold with trained models."""

from glomflow.jobs import job


def predict(inputs, outputs, params, fold: int, threads: int) -> None:
    from glomflow.training.runs import predict_runs, runs_of
    from glomflow.training.stores import paths_of

    files = dict(inputs.items())
    predict_runs(
        runs_of(params.configs, params.seeds, files, files),
        fold,
        paths_of(outputs.predictions),
        paths_of(outputs.instances),
        threads=threads,
    )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        fold = int(snakemake.wildcards.fold)
        predict(snakemake.input, snakemake.output, snakemake.params, fold, snakemake.threads)
