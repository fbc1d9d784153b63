"""Checks the sheets as a whole and deals the patients into shards."""

from pathlib import Path

from glomflow.jobs import job


def read_sheets(settings: dict, folder: Path, n_splits: int, shards: int, diagnosis: bool):
    from glomflow.cohort.crops_folder import read_crops_folder
    from glomflow.cohort.sheets import read_cohort
    from glomflow.config import Cohort

    cohort = Cohort(**settings)
    if cohort.source == "crops":
        return read_crops_folder(folder, cohort.labels, classes=cohort.classes, shards=shards)
    names = ("patients.csv", "images.csv") if cohort.source == "phantom" else (cohort.patients, cohort.images)
    return read_cohort(
        folder,
        *names,
        classes=cohort.classes,
        n_splits=n_splits,
        shards=shards,
        check_classes=diagnosis,
    )


def write_cohort(patients, images, outputs) -> None:
    from glomflow.tables import IMAGES, PATIENTS, write_table

    write_table(outputs.patients, patients, PATIENTS)
    write_table(outputs.images, images, IMAGES)
    for shard, path in enumerate(outputs.shards):
        write_table(path, images[images["shard"] == shard].reset_index(drop=True), IMAGES)
    print(f"{len(patients)} patients, {len(images)} images, {len(outputs.shards)} shards")


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        frames = read_sheets(
            snakemake.params.settings,
            Path(snakemake.params.folder),
            snakemake.params.n_splits,
            len(snakemake.output.shards),
            snakemake.params.diagnosis,
        )
        write_cohort(*frames, snakemake.output)
