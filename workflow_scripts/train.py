"""Trains models on one fold."""

from glomflow.jobs import job


def train(inputs, outputs, params, threads: int) -> None:
    from glomflow.repeated_inputs import with_repeats
    from glomflow.training.runs import runs_of, train_runs

    files = dict(outputs.items()) | {"checkpoint": params.checkpoints}
    read = with_repeats(dict(inputs.items()), params.repeats)
    train_runs(runs_of(params.configs, params.seeds, read, files), threads=threads)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads, snakemake.resources.gpu):
        train(snakemake.input, snakemake.output, snakemake.params, snakemake.threads)
