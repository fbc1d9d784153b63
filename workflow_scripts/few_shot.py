"""Classifies the glomeruli of the test slides by features, colour and texture of a few labelled ones."""

from glomflow.jobs import job


def run(indices, crops, features, draws, settings: dict, seed: int):
    from glomflow.config import FewShot
    from glomflow.evaluation.draws import DRAWS
    from glomflow.evaluation.few_shot import few_shot
    from glomflow.imaging.crop_store import open_array, read_store
    from glomflow.tables import read_table

    stores = [read_store(*paths) for paths in zip(crops, indices, strict=True)]
    indexes = [index for _, index in stores]
    maps = [open_array(path, "features") for path in features]
    pixels = [array for array, _ in stores]
    drawn = read_table(draws, DRAWS)
    return few_shot(indexes, maps, pixels, FewShot(**settings), seed=seed, draws=drawn)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.shots import left_out_shots
        from glomflow.tables import FEW_SHOT, probability_columns, write_table

        files, params = snakemake.input, snakemake.params
        predictions = run(
            files.indices, files.crops, files.features, files.draws, params.settings, params.seed
        )
        for method in params.settings["methods"]:
            for remark in left_out_shots(method, params.settings["shots"]):
                print(remark)
        names = [column[2:] for column in predictions.columns if column.startswith("p_")]
        write_table(snakemake.output.predictions, predictions, FEW_SHOT, probability_columns(names))
