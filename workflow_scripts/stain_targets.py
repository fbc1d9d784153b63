"""Chooses the profile that slides of each stain are matched to."""

from pathlib import Path

from glomflow.jobs import job


def choose(images: Path, profiles, folder: Path, settings: dict):
    import pandas as pd

    from glomflow.config import Stain
    from glomflow.imaging.stain_targets import choose_target, profile_row
    from glomflow.tables import IMAGES, STAIN_PROFILES, read_table

    frames = [read_table(path, STAIN_PROFILES) for path in profiles]
    targets = choose_target(
        pd.concat(frames, ignore_index=True), read_table(images, IMAGES), Stain(**settings), folder
    )
    return pd.DataFrame([{**profile_row(profile), "slide": stain} for stain, profile in targets.items()])


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.tables import STAIN_PROFILES, write_table

        targets = choose(
            Path(snakemake.input.images),
            snakemake.input.profiles,
            Path(snakemake.params.folder),
            snakemake.params.settings,
        )
        write_table(snakemake.output[0], targets, STAIN_PROFILES)
