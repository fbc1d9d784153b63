"""Explains the predictions of a held-out fold."""

from pathlib import Path

from glomflow.jobs import job


def explain(inputs, config: dict, model: str, fold: int, seed: int, threads: int):
    from glomflow.config import Config
    from glomflow.tables import TEST, TRAINING, read_table
    from glomflow.training.explain import explain_fold
    from glomflow.training.search import apply_search_files
    from glomflow.training.stores import stores_from_files

    return explain_fold(
        read_table(inputs.patients, TEST)["patient"].tolist(),
        read_table(inputs.table, TRAINING),
        stores_from_files(dict(inputs.items())),
        apply_search_files(Config(**config), model, inputs.search),
        model,
        fold,
        seed,
        weights=Path(inputs.weights),
        settings_json=Path(inputs.settings),
        threads=threads,
    )


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads, snakemake.resources.gpu):
        explained = explain(
            snakemake.input,
            snakemake.params.config,
            snakemake.wildcards.model,
            int(snakemake.wildcards.fold),
            int(snakemake.wildcards.seed),
            snakemake.threads,
        )
        out = snakemake.output
        explained.write(out.maps, out.index, out.contributions, out.curves)
        print(f"{len(explained.maps)} maps")
