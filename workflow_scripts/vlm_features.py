"""Encodes the labelled glomeruli with the frozen image tower of a vision-language model."""

from pathlib import Path

from glomflow.jobs import job


def check(task, config: dict) -> None:
    """Stops before encoding if prompts are unusable; their wording changes no feature."""
    from glomflow.config_vlm import Vlm
    from glomflow.models.vlm.prompt_check import check_prompts

    if task.section.has_text:
        vlm = Vlm.model_validate(config.get("vlm", {}))
        check_prompts(vlm, task.backbone, task.labelled().classes, offline=task.settings.run.offline)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads, snakemake.resources.gpu):
        from glomflow.evaluation.adapted_jobs import Job, encode_crops

        task = Job.of(snakemake.input, snakemake.params, snakemake.threads)
        check(task, snakemake.config)
        output = snakemake.output
        encode_crops(task, Path(output.features), Path(output.index), Path(output.description))
