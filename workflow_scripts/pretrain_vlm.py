"""Trains the small vision-language model on captioned phantom glomeruli."""

from pathlib import Path

from glomflow.jobs import job


def pretrain_vlm(settings: dict, weights: Path, description: Path, report: Path, threads: int) -> float:
    from glomflow.config_vlm import VlmPretraining
    from glomflow.training.vlm_pretrain import PretrainFiles, pretrain

    files = PretrainFiles(weights, description, report)
    found = pretrain(VlmPretraining(**settings), files, threads=threads)
    return found["zero_shot"]["balanced_accuracy"]


def check(config: dict) -> None:
    """Stops in seconds, not after training, if prompts are unusable; their wording changes no weights."""
    from glomflow.config_vlm import Vlm
    from glomflow.models.vlm.prompt_check import check_prompts

    vlm = Vlm.model_validate(config.get("vlm", {}))
    for name in (name for name, section in vlm.backbones.items() if section.is_phantom):
        check_prompts(vlm, name, config.get("few_shot", {}).get("classes"), offline=True)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads, snakemake.resources.gpu):
        check(snakemake.config)
        accuracy = pretrain_vlm(
            snakemake.params.settings,
            Path(snakemake.output.weights),
            Path(snakemake.output.description),
            Path(snakemake.output.report),
            snakemake.threads,
        )
        print(f"zero-shot balanced accuracy on held-out phantom patients: {accuracy:.3f}")
