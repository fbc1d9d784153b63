"""Trains models on one fold."""

from glomflow.jobs import job


def train(inputs, outputs, params, threads: int) -> None:
    from glomflow.training.runs import runs_of, train_runs

    files = dict(outputs.items()) | {"checkpoint": params.checkpoints}
    train_runs(runs_of(params.configs, params.seeds, dict(inputs.items()), files), threads=threads)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        train(snakemake.input, snakemake.output, snakemake.params, snakemake.threads)
