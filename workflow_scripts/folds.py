"""Deals the patients into folds and proves that nothing crosses a split."""

from glomflow.jobs import job


def deal(patients_path, inventory_path, settings: dict, seed: int):
    from glomflow.cohort.folds import check_folds, eligible_patients, make_folds
    from glomflow.config import Folds
    from glomflow.tables import INVENTORY, PATIENTS, read_table

    patients = read_table(patients_path, PATIENTS)
    inventory = read_table(inventory_path, INVENTORY)
    eligible, excluded = eligible_patients(patients, inventory)
    folds = make_folds(eligible, Folds(**settings), seed=seed)
    check_folds(folds, eligible, inventory)
    return eligible, excluded, folds


def write_task(task: str, classes: list[str], folds, patients, train_paths, test_paths) -> None:
    from glomflow.cohort.folds import check_task, task_patients
    from glomflow.tables import TEST, TRAINING, write_table

    own = task_patients(patients, task)
    check_task(folds, own, classes, task)
    rows = folds.merge(own[["patient", "label"]], on="patient")
    for fold, (train_path, test_path) in enumerate(zip(train_paths, test_paths, strict=True)):
        here = rows[rows["fold"] == fold]
        train = here[here["split"] != "test"]
        write_table(train_path, train[list(TRAINING)].reset_index(drop=True), TRAINING)
        test = here[here["split"] == "test"]
        write_table(test_path, test[list(TEST)].reset_index(drop=True), TEST)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.cohort.folds import fold_digest
        from glomflow.files import write_json
        from glomflow.tables import EXCLUDED, FOLDS, write_table

        output, settings = snakemake.output, snakemake.params.settings
        eligible, excluded, folds = deal(
            snakemake.input.patients, snakemake.input.inventory, settings, snakemake.params.seed
        )
        write_table(output.folds, folds, FOLDS)
        write_table(output.excluded, excluded, EXCLUDED)
        for task, classes in snakemake.params.classes.items():
            write_task(
                task, classes, folds, eligible, output.get(f"{task}_train"), output.get(f"{task}_test")
            )
        digest = fold_digest(folds)
        write_json(output.digest, {"sha256": digest, "patients": len(eligible), **settings})
        print(f"{len(eligible)} patients in {folds['fold'].nunique()} folds, digest {digest}")
