"""Averages the predictions of several few-shot methods."""

from glomflow.jobs import job


def run(predictions, members: dict[str, list[str]]):
    import pandas as pd

    from glomflow.evaluation.ensembles import ensembles
    from glomflow.tables import FEW_SHOT, read_table

    parts = [read_table(path, FEW_SHOT, open_ended=True) for path in predictions]
    return ensembles(pd.concat(parts, ignore_index=True), members)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.tables import FEW_SHOT, probability_columns, write_table

        found = run(snakemake.input.predictions, snakemake.params.members)
        names = [column[2:] for column in found.columns if column.startswith("p_")]
        write_table(snakemake.output.predictions, found, FEW_SHOT, probability_columns(names))
