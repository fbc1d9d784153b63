"""Fits each site's immunofluorescence levels to a fold's training patients."""

from pathlib import Path

from glomflow.jobs import job


def fit(crops, indexes, patients: Path, table: Path):
    import numpy as np
    import pandas as pd

    from glomflow.imaging.crop_store import read_store
    from glomflow.imaging.im_levels import fit_site_levels
    from glomflow.tables import PATIENTS, TRAINING, read_table

    stores = [read_store(Path(npy), Path(index)) for npy, index in zip(crops, indexes, strict=True)]
    fold = read_table(table, TRAINING)
    sites = read_table(patients, PATIENTS).set_index("patient")["site"]
    return fit_site_levels(
        np.concatenate([pixels for pixels, _ in stores]),
        pd.concat([index for _, index in stores], ignore_index=True),
        sites,
        set(fold.loc[fold["split"] == "train", "patient"]),
    )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.tables import SITE_LEVELS, write_table

        levels = fit(
            snakemake.input.crops,
            snakemake.input.index,
            Path(snakemake.input.patients),
            Path(snakemake.input.table),
        )
        write_table(snakemake.output[0], levels, SITE_LEVELS)
