"""Encodes a crop store once."""

from pathlib import Path

from glomflow.jobs import job


def encode(crops: Path, index: Path, settings: dict, offline: bool, out: Path, threads: int) -> None:
    from glomflow.config import Encoder
    from glomflow.training.features import encode_store

    encode_store(crops, index, Encoder(**settings), out, offline=offline, threads=threads)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads, snakemake.resources.gpu):
        encode(
            Path(snakemake.input.crops),
            Path(snakemake.input.index),
            snakemake.params.settings,
            snakemake.params.offline,
            Path(snakemake.output[0]),
            snakemake.threads,
        )
