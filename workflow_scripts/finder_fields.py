"""Lists the annotated fields and deals them into the finder's folds."""

from pathlib import Path

from glomflow.jobs import job


def deal(images: Path, inventory: Path, settings: dict, seed: int):
    from glomflow.config_finder import Finder
    from glomflow.tables import IMAGES, INVENTORY, read_table
    from glomflow.training.finder_shard import deal_fields, finder_images

    fields = finder_images(read_table(inventory, INVENTORY), read_table(images, IMAGES), annotated=True)
    return fields, deal_fields(fields, Finder(**settings), seed)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.tables import FINDER_FOLDS, FINDER_IMAGES, FINDER_TRAINING, write_table
        from glomflow.training.finder_shard import training_table

        fields, folds = deal(
            Path(snakemake.input.images),
            Path(snakemake.input.inventory),
            snakemake.params.settings,
            snakemake.params.seed,
        )
        write_table(snakemake.output.fields, fields, FINDER_IMAGES)
        write_table(snakemake.output.folds, folds, FINDER_FOLDS)
        for fold, path in zip(snakemake.params.folds, snakemake.output.tables, strict=True):
            write_table(path, training_table(fields, folds, fold), FINDER_TRAINING)
        print(f"{len(fields)} annotated fields in {len(snakemake.params.folds)} folds")
