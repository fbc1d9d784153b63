"""Chooses the profile that slides of each stain are matched to."""

from pathlib import Path

from glomflow.cohort.bucket import cohort_files
from glomflow.jobs import job


def choose(images: Path, profiles, folder: Path, settings: dict, training: Path | None = None):
    """Chooses targets; with a fold's table, they are fitted on its training patients only."""
    import pandas as pd

    from glomflow.config import Stain
    from glomflow.imaging.stain_targets import fit_target, profile_row
    from glomflow.tables import IMAGES, STAIN_PROFILES, TRAINING, read_table

    frames = [read_table(path, STAIN_PROFILES) for path in profiles]
    patients = None
    if training is not None:
        table = read_table(training, TRAINING)
        patients = set(table.loc[table["split"] == "train", "patient"])
    targets = fit_target(
        pd.concat(frames, ignore_index=True),
        read_table(images, IMAGES),
        Stain(**settings),
        folder,
        patients=patients,
    )
    return pd.DataFrame([{**profile_row(profile), "slide": stain} for stain, profile in targets.items()])


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads), cohort_files(snakemake.params.folder) as folder:
        from glomflow.tables import STAIN_PROFILES, write_table

        table = snakemake.input.get("table")
        targets = choose(
            Path(snakemake.input.images),
            snakemake.input.profiles,
            folder,
            snakemake.params.settings,
            Path(table) if table else None,
        )
        for row in targets[targets["flag"] != ""].itertuples():
            print(f"stain '{row.slide}': {row.flag}")
        write_table(snakemake.output[0], targets, STAIN_PROFILES)
