"""Holds the weights of TEM instances against the deposits that the phantom drew."""

from pathlib import Path

from glomflow.jobs import job


def compare(files, settings: dict, seed: int):
    import pandas as pd

    from glomflow.config import Evaluation
    from glomflow.evaluation.instances import deposit_hits
    from glomflow.files import read_json
    from glomflow.tables import CROPS, INSTANCES, INVENTORY, read_table

    def gather(paths, schema):
        return pd.concat([read_table(path, schema) for path in paths], ignore_index=True)

    return deposit_hits(
        gather(files.instances, INSTANCES),
        gather(files.crops, CROPS),
        read_table(files.inventory, INVENTORY),
        read_json(files.truth),
        Path(files.truth).parent,
        Evaluation(**settings),
        seed=seed,
    )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        hits = compare(snakemake.input, snakemake.params.settings, snakemake.params.seed)
        hits.write(snakemake.output.summary, snakemake.output.tiles)
        print(hits.summary.to_string(index=False))
