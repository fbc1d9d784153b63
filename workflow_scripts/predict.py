"""Predicts the held-out fold with trained models."""

from glomflow.jobs import job


def predict(inputs, outputs, params, fold: int, threads: int) -> None:
    from glomflow.repeated_inputs import with_repeats
    from glomflow.training.runs import predict_runs, runs_of
    from glomflow.training.stores import paths_of

    files = with_repeats(dict(inputs.items()), params.repeats)
    predict_runs(
        runs_of(params.configs, params.seeds, files, files),
        fold,
        paths_of(outputs.predictions),
        paths_of(outputs.instances),
        threads=threads,
    )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads, snakemake.resources.gpu):
        fold = int(snakemake.wildcards.fold)
        predict(snakemake.input, snakemake.output, snakemake.params, fold, snakemake.threads)
