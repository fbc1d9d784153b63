"""Draws the images of one shard's phantom patients."""

from pathlib import Path

from glomflow.jobs import job


def draw_images(settings: dict, shard: int, shards: int, folder: Path, manifest: Path) -> None:
    from glomflow.cohort.phantom import plan_phantom, write_phantom_images
    from glomflow.cohort.sheets import shard_of
    from glomflow.config import Phantom
    from glomflow.files import write_json

    plan = plan_phantom(Phantom(**settings))
    names = [patient.patient for patient in plan.patients]
    patients = [name for name in names if shard_of(name, shards) == shard]
    write_json(manifest, write_phantom_images(plan, folder, patients))
    print(f"drew the images of {len(patients)} patients")


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        draw_images(
            snakemake.params.settings,
            int(snakemake.wildcards.shard),
            snakemake.params.shards,
            Path(snakemake.input.truth).parent,
            Path(snakemake.output.manifest),
        )
