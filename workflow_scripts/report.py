"""Writes the report."""

import posixpath
from pathlib import Path

from glomflow.jobs import job


def write(files: dict, runs, config: dict, out: Path) -> None:
    from glomflow.config import Config
    from glomflow.report.job_inputs import inputs_from_files
    from glomflow.report.page import build_report

    build_report(inputs_from_files(files, runs), Config(**config), out)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.costs import write_costs

        params, output = snakemake.params, snakemake.output
        costs = write_costs(posixpath.dirname(params.plan), Path(output.costs))
        files = {**dict(snakemake.input.items()), "costs": output.costs}
        write(files, params.runs, params.config, Path(output.page))
        print(f"wrote {output.page}; time and memory of {len(costs)} jobs in {output.costs}")
