"""Tiles the electron micrographs of a shard."""

from pathlib import Path

from glomflow.cohort.bucket import cohort_files
from glomflow.jobs import job


def tile(images: Path, inventory: Path, folder: Path, settings: dict):
    from glomflow.config import TemTiles
    from glomflow.imaging.tem import tile_tem_shard
    from glomflow.tables import IMAGES, INVENTORY, read_table

    rows = read_table(inventory, INVENTORY)
    usable = rows[(rows["status"] == "ok") & (rows["modality"] == "TEM")]
    return tile_tem_shard(usable, read_table(images, IMAGES), folder, TemTiles(**settings))


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads), cohort_files(snakemake.params.folder) as folder:
        from glomflow.imaging.crop_store import write_store

        crops, index = tile(
            Path(snakemake.input.images),
            Path(snakemake.input.inventory),
            folder,
            snakemake.params.settings,
        )
        write_store(snakemake.output.crops, snakemake.output.index, crops, index)
        print(f"{len(index)} tiles")
