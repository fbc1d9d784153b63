"""Writes the report."""

from pathlib import Path

from glomflow.jobs import job


def write(files: dict, runs, config: dict, out: Path) -> None:
    from glomflow.config import Config
    from glomflow.report.job_inputs import inputs_from_files
    from glomflow.report.page import build_report

    build_report(inputs_from_files(files, runs), Config(**config), out)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        params = snakemake.params
        write(dict(snakemake.input.items()), params.runs, params.config, Path(snakemake.output[0]))
        print(f"wrote {snakemake.output[0]}")
