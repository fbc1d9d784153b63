"""Cuts the annotated glomeruli of a shard, stain-normalised."""

from pathlib import Path

from glomflow.cohort.bucket import cohort_files
from glomflow.jobs import job


def crop(inputs, outputs, folder: Path, settings: dict, stain: dict) -> int:
    from glomflow.config import GlomerulusCrops, Stain
    from glomflow.imaging.found import found_outlines
    from glomflow.imaging.glomeruli import write_glomeruli_shard
    from glomflow.imaging.stain_targets import choose_target, profiles_by_slide
    from glomflow.tables import FOUND, IMAGES, INVENTORY, SEARCHED, STAIN_PROFILES, read_table

    images = read_table(inputs.images, IMAGES)
    profiles = read_table(inputs.profiles, STAIN_PROFILES)
    colours = Stain(**stain)
    if colours.fitted_per_fold:
        # Stored as they are: each fold recolours them to its own targets.
        colours = colours.model_copy(update={"method": "none"})
        profiles = profiles.assign(method="none")
    targets = (
        profiles_by_slide(read_table(inputs.targets[0], STAIN_PROFILES))
        if len(inputs.targets)
        else choose_target(profiles, images, colours, folder)
    )
    found = None
    if len(inputs.found):
        searched = read_table(inputs.searched[0], SEARCHED)["image"]
        found = found_outlines(read_table(inputs.found[0], FOUND), searched)
    return write_glomeruli_shard(
        outputs.crops,
        outputs.index,
        read_table(inputs.inventory, INVENTORY),
        images,
        profiles,
        targets,
        folder,
        GlomerulusCrops(**settings),
        colours,
        found,
    )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads), cohort_files(snakemake.params.folder) as folder:
        count = crop(
            snakemake.input,
            snakemake.output,
            folder,
            snakemake.params.settings,
            snakemake.params.stain,
        )
        print(f"{count} crops")
