"""Recolours the glomerulus crops of a shard to the stain targets of a fold."""

from pathlib import Path

from glomflow.jobs import job


def recolour(inputs, outputs, keep_white: bool) -> int:
    from glomflow.imaging.crop_store import read_store
    from glomflow.imaging.stain_targets import profiles_by_slide, write_renormalised_store
    from glomflow.tables import IMAGES, STAIN_PROFILES, read_table

    crops, index = read_store(Path(inputs.crops), Path(inputs.index))
    write_renormalised_store(
        Path(outputs.crops),
        Path(outputs.index),
        crops,
        index,
        read_table(inputs.profiles, STAIN_PROFILES),
        profiles_by_slide(read_table(inputs.targets, STAIN_PROFILES)),
        read_table(inputs.images, IMAGES),
        keep_white=keep_white,
    )
    return len(index)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        count = recolour(snakemake.input, snakemake.output, snakemake.params.keep_white)
        print(f"{count} crops")
