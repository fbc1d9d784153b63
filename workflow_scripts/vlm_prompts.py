"""Checks the prompts of a backbone against the classes that were drawn."""

from pathlib import Path

from glomflow.jobs import job

if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.config import Config
        from glomflow.evaluation.adapted_prompts import checked_prompts
        from glomflow.files import write_json

        params = snakemake.params
        settings = Config.model_validate(params.settings)
        found = checked_prompts(settings, params.backbone, Path(snakemake.input.draws))
        write_json(snakemake.output.prompts, found)
