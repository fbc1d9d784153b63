"""Draws the slides and the labelled glomeruli of every run."""

from glomflow.jobs import job


def draw(indices, settings: dict, seed: int):
    import pandas as pd

    from glomflow.config import FewShot
    from glomflow.evaluation.draws import draw_shots
    from glomflow.tables import CROPS, read_table

    index = pd.concat([read_table(path, CROPS) for path in indices], ignore_index=True)
    return draw_shots(index, FewShot(**settings), seed=seed)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.evaluation.draws import DRAWS, draw_digest
        from glomflow.files import write_json
        from glomflow.tables import write_table

        seed = snakemake.params.seed
        draws = draw(snakemake.input.indices, snakemake.params.settings, seed)
        write_table(snakemake.output.draws, draws, DRAWS)
        write_json(snakemake.output.digest, {"sha256": draw_digest(draws), "seed": seed})
