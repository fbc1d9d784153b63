"""Decides the phantom cohort and writes its sheets, captions and ground truth."""

from pathlib import Path

from glomflow.jobs import job


def write_sheets(settings: dict, folder: Path) -> None:
    from glomflow.cohort.phantom import plan_phantom, write_phantom_sheets
    from glomflow.config import Phantom

    write_phantom_sheets(plan_phantom(Phantom(**settings)), folder)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        write_sheets(snakemake.params.settings, Path(snakemake.output.truth).parent)
