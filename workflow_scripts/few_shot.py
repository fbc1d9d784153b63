"""Draws slides and shots and classifies the glomeruli of the other slides."""

from glomflow.jobs import job


def run(indices, crops, features, settings: dict, seed: int):
    import pandas as pd

    from glomflow.config import FewShot
    from glomflow.evaluation.draws import draw_shots
    from glomflow.evaluation.few_shot import few_shot
    from glomflow.imaging.crop_store import open_array, read_store

    stores = [read_store(*paths) for paths in zip(crops, indices, strict=True)]
    indexes = [index for _, index in stores]
    maps = [open_array(path, "features") for path in features]
    draws = draw_shots(pd.concat(indexes, ignore_index=True), FewShot(**settings), seed=seed)
    pixels = [array for array, _ in stores]
    return draws, few_shot(indexes, maps, pixels, FewShot(**settings), seed=seed, draws=draws)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.evaluation.draws import DRAWS, draw_digest
        from glomflow.files import write_json
        from glomflow.tables import FEW_SHOT, probability_columns, write_table

        files, output = snakemake.input, snakemake.output
        seed = snakemake.params.seed
        draws, predictions = run(files.indices, files.crops, files.features, snakemake.params.settings, seed)
        names = [column[2:] for column in predictions.columns if column.startswith("p_")]
        write_table(output.draws, draws, DRAWS)
        write_table(output.predictions, predictions, FEW_SHOT, probability_columns(names))
        write_json(output.digest, {"sha256": draw_digest(draws), "seed": seed})
