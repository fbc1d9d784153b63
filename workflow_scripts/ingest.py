"""Opens every image of a shard and writes what is known of it."""

from pathlib import Path

from glomflow.cohort.bucket import cohort_files
from glomflow.jobs import job


def ingest(
    images: Path,
    folder: Path,
    settings: dict,
    quality: dict,
    allow_anisotropic: bool,
    finder: bool,
    thumbnails: Path,
    shard: int,
):
    from glomflow.config import Ingest
    from glomflow.config_quality import Quality
    from glomflow.imaging.inventory import ingest_shard
    from glomflow.tables import IMAGES, read_table

    return ingest_shard(
        read_table(images, IMAGES),
        folder,
        Ingest(**settings),
        allow_anisotropic=allow_anisotropic,
        thumbnails=thumbnails,
        shard=shard,
        quality=Quality(**quality),
        finder=finder,
    )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads), cohort_files(snakemake.params.folder) as folder:
        from glomflow.imaging.inventory import report_problems
        from glomflow.tables import INVENTORY, write_table

        inventory = ingest(
            Path(snakemake.input.images),
            folder,
            snakemake.params.settings,
            snakemake.params.quality,
            snakemake.params.allow_anisotropic,
            snakemake.params.finder,
            Path(snakemake.output.thumbnails),
            int(snakemake.wildcards.shard),
        )
        report_problems(inventory, strict=snakemake.params.strict)
        write_table(snakemake.output.inventory, inventory, INVENTORY)
