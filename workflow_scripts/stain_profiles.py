"""Estimates a stain profile per slide."""

from pathlib import Path

from glomflow.cohort.bucket import cohort_files
from glomflow.jobs import job


def estimate(images: Path, inventory: Path, folder: Path, settings: dict):
    from glomflow.config import Stain
    from glomflow.imaging.stain_targets import profile_shard
    from glomflow.tables import IMAGES, INVENTORY, read_table

    rows = read_table(inventory, INVENTORY)
    usable = rows[(rows["status"] == "ok") & (rows["modality"] == "OM")]
    return profile_shard(usable, read_table(images, IMAGES), folder, Stain(**settings))


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads), cohort_files(snakemake.params.folder) as folder:
        from glomflow.tables import STAIN_PROFILES, write_table

        profiles = estimate(
            Path(snakemake.input.images),
            Path(snakemake.input.inventory),
            folder,
            snakemake.params.settings,
        )
        for row in profiles[profiles["flag"] != ""].itertuples():
            print(f"slide {row.slide}: {row.flag}")
        write_table(snakemake.output[0], profiles, STAIN_PROFILES)
