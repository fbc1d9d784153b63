"""Draws the slides and the labelled glomeruli of every run."""

from glomflow.jobs import job


def draw(files, settings, seed: int):
    import pandas as pd

    from glomflow.evaluation.draws import draw_shots
    from glomflow.tables import CROPS, PATIENTS, read_table

    index = pd.concat([read_table(path, CROPS) for path in files.indices], ignore_index=True)
    sites = None
    if settings.protocol == "leave_one_site_out":
        patients = read_table(files.patients, PATIENTS)
        sites = dict(zip(patients["patient"], patients["site"], strict=True))
    return draw_shots(index, settings, seed=seed, sites=sites)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.config import FewShot
        from glomflow.evaluation.draws import DRAWS, draw_digest, draw_remarks
        from glomflow.files import write_json
        from glomflow.tables import write_table

        settings, seed = FewShot(**snakemake.params.settings), snakemake.params.seed
        draws = draw(snakemake.input, settings, seed)
        remarks = draw_remarks(draws, settings)
        print("\n".join(remarks))
        write_table(snakemake.output.draws, draws, DRAWS)
        digest = {"sha256": draw_digest(draws), "seed": seed, "remarks": remarks}
        write_json(snakemake.output.digest, digest)
