"""Draws figures of the report."""

from pathlib import Path

from glomflow.cohort.bucket import cohort_files
from glomflow.jobs import job


def draw(files: dict, params, outputs, folder: Path) -> None:
    from glomflow.config import Config
    from glomflow.report.gallery import draw_figure
    from glomflow.report.job_inputs import inputs_from_files
    from glomflow.report.style import save_figure

    inputs = inputs_from_files(
        files,
        params.get("runs", ()),
        cohort_folder=folder,
        thumbnails=params.get("thumbnails"),
    )
    config = Config(**params.config)
    for path in outputs:
        save_figure(draw_figure(Path(path).stem, inputs, config), path)


if __name__ == "__main__":
    with (
        job(snakemake.log[0], snakemake.threads),
        cohort_files(snakemake.params.get("folder", ".")) as folder,
    ):
        draw(dict(snakemake.input.items()), snakemake.params, snakemake.output, folder)
