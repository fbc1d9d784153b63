"""Predicts the held-out fold from every subset of the patients' modalities, with all models of a task."""

from pathlib import Path

from glomflow.jobs import job


def stores_of(place: int, files: dict):
    from glomflow.training.stores import stores_from_files

    prefix = f"model{place}_"
    return stores_from_files(
        {name.removeprefix(prefix): paths for name, paths in files.items() if name.startswith(prefix)}
    )


def predict(inputs, repeats: dict, configs: dict, seeds: list[int], fold: int, threads: int):
    import pandas as pd

    from glomflow.config import Config
    from glomflow.repeated_inputs import with_repeats
    from glomflow.tables import TEST, read_table
    from glomflow.training.search import apply_search_files
    from glomflow.training.subsets import predict_subsets

    files = with_repeats(dict(inputs.items()), repeats)
    patients = read_table(inputs.patients, TEST)["patient"].tolist()
    trained = zip(inputs.weights, inputs.settings, strict=True)
    parts = []
    for place, (model, config) in enumerate(configs.items()):
        searched = [inputs.searches[place]] if inputs.searches else []
        settings = apply_search_files(Config(**config), model, searched)
        for seed in seeds:
            weights, described = map(Path, next(trained))
            parts.append(
                predict_subsets(
                    patients,
                    stores_of(place, files),
                    settings,
                    model,
                    fold,
                    seed,
                    weights,
                    described,
                    threads=threads,
                )
            )
    return pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads, snakemake.resources.gpu):
        from glomflow.config import Config
        from glomflow.tables import SUBSETS, probability_columns, write_table

        configs = snakemake.params.configs
        rows = predict(
            snakemake.input,
            snakemake.params.repeats,
            configs,
            snakemake.params.seeds,
            int(snakemake.wildcards.fold),
            snakemake.threads,
        )
        classes = Config(**next(iter(configs.values()))).classes_of(snakemake.wildcards.task)
        write_table(snakemake.output[0], rows, SUBSETS, probability_columns(classes))
        print(f"{rows['patient'].nunique()} patients, {len(rows)} predictions")
