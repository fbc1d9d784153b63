"""Brings the immunofluorescence crops of a shard to the levels fitted on a fold."""

from pathlib import Path

from glomflow.jobs import job


def standardise(inputs, outputs) -> int:
    from glomflow.imaging.crop_store import read_store, write_store
    from glomflow.imaging.im_levels import apply_site_levels
    from glomflow.tables import PATIENTS, SITE_LEVELS, read_table

    crops, index = read_store(Path(inputs.crops), Path(inputs.index))
    sites = read_table(inputs.patients, PATIENTS).set_index("patient")["site"]
    levels = read_table(inputs.levels, SITE_LEVELS)
    write_store(
        Path(outputs.crops), Path(outputs.index), apply_site_levels(crops, index, sites, levels), index
    )
    return len(index)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        print(f"{standardise(snakemake.input, snakemake.output)} crops")
