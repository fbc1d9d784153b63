"""Trains the small vision-language model on captioned phantom glomeruli."""

from pathlib import Path

from glomflow.jobs import job


def pretrain_vlm(settings: dict, weights: Path, description: Path, report: Path, threads: int) -> float:
    from glomflow.config_vlm import VlmPretraining
    from glomflow.training.vlm_pretrain import PretrainFiles, pretrain

    files = PretrainFiles(weights, description, report)
    found = pretrain(VlmPretraining(**settings), files, threads=threads)
    return found["zero_shot"]["balanced_accuracy"]


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads, snakemake.resources.gpu):
        accuracy = pretrain_vlm(
            snakemake.params.settings,
            Path(snakemake.output.weights),
            Path(snakemake.output.description),
            Path(snakemake.output.report),
            snakemake.threads,
        )
        print(f"zero-shot balanced accuracy on held-out phantom patients: {accuracy:.3f}")
