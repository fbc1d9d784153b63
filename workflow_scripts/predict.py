"""Predicts the held-out fold with a trained model."""

from pathlib import Path

from glomflow.jobs import job


def predict(inputs, config: dict, model: str, fold: int, seed: int, threads: int):
    from glomflow.config import Config
    from glomflow.tables import TEST, read_table
    from glomflow.training.predict import predict_fold
    from glomflow.training.search import apply_search_files
    from glomflow.training.stores import stores_from_files

    return predict_fold(
        read_table(inputs.patients, TEST)["patient"].tolist(),
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
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.config import Config
        from glomflow.tables import INSTANCES, PREDICTIONS, probability_columns, write_table

        config = snakemake.params.config
        predictions, instances = predict(
            snakemake.input,
            config,
            snakemake.wildcards.model,
            int(snakemake.wildcards.fold),
            int(snakemake.wildcards.seed),
            snakemake.threads,
        )
        settings = Config(**config)
        task = settings.diagnosis.models[snakemake.wildcards.model].task
        extra = probability_columns(settings.classes_of(task))
        write_table(snakemake.output.predictions, predictions, PREDICTIONS, extra)
        write_table(snakemake.output.instances, instances, INSTANCES)
        print(f"{len(predictions)} patients predicted")
