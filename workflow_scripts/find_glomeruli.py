"""Searches the OM fields of a shard for glomeruli."""

from pathlib import Path

from glomflow.cohort.bucket import cohort_files
from glomflow.jobs import job


def search(inputs, folder: Path, settings: dict, finders: list[str], out: Path, threads: int):
    from glomflow.config_finder import Finder
    from glomflow.tables import FINDER_FOLDS, IMAGES, INVENTORY, read_table
    from glomflow.training.finder_models import load_finder
    from glomflow.training.finder_shard import find_shard
    from glomflow.training.seeds import deterministic

    section = Finder(**settings)
    weights = dict(zip(finders, inputs.weights, strict=True))
    descriptions = dict(zip(finders, inputs.descriptions, strict=True))

    def load(fold: str):
        if section.model != "train":
            return load_finder(section, threads=threads)
        return load_finder(section, Path(weights[fold]), Path(descriptions[fold]), threads=threads)

    with deterministic(threads):
        return find_shard(
            read_table(inputs.inventory, INVENTORY),
            read_table(inputs.images, IMAGES),
            read_table(inputs.folds, FINDER_FOLDS),
            folder,
            section,
            load,
            out,
        )


if __name__ == "__main__":
    gpus = snakemake.resources.gpu
    with job(snakemake.log[0], snakemake.threads, gpus), cohort_files(snakemake.params.folder) as folder:
        from glomflow.tables import FOUND, SEARCHED, write_table

        searched, found = search(
            snakemake.input,
            folder,
            snakemake.params.settings,
            snakemake.params.finders,
            Path(snakemake.output.outlines),
            snakemake.threads,
        )
        write_table(snakemake.output.searched, searched, SEARCHED)
        write_table(snakemake.output.found, found, FOUND)
        print(f"{len(found)} glomeruli in {len(searched)} images")
