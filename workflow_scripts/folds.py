"""Deals the patients into folds and proves that nothing crosses a split."""

from glomflow.jobs import job


def deal(patients_path, inventory_path, settings: dict, seed: int):
    from glomflow.cohort.folds import check_folds, eligible_patients, make_folds
    from glomflow.tables import INVENTORY, PATIENTS, read_table

    patients = read_table(patients_path, PATIENTS)
    inventory = read_table(inventory_path, INVENTORY)
    eligible, excluded = eligible_patients(patients, inventory)
    folds = make_folds(eligible, seed=seed, **settings)
    check_folds(folds, eligible, inventory)
    return eligible, excluded, folds


def write_fold(fold: int, folds, patients, train_path, test_path) -> None:
    from glomflow.tables import TEST, TRAINING, write_table

    rows = folds[folds["fold"] == fold].merge(patients[["patient", "label"]], on="patient")
    train = rows[rows["split"] != "test"]
    write_table(train_path, train[list(TRAINING)].reset_index(drop=True), TRAINING)
    test = rows[rows["split"] == "test"]
    write_table(test_path, test[list(TEST)].reset_index(drop=True), TEST)


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.cohort.folds import fold_digest
        from glomflow.files import write_json
        from glomflow.tables import EXCLUDED, FOLDS, write_table

        output = snakemake.output
        eligible, excluded, folds = deal(
            snakemake.input.patients,
            snakemake.input.inventory,
            snakemake.params.settings,
            snakemake.params.seed,
        )
        write_table(output.folds, folds, FOLDS)
        write_table(output.excluded, excluded, EXCLUDED)
        for fold, paths in enumerate(zip(output.train, output.test, strict=True)):
            write_fold(fold, folds, eligible, *paths)
        digest = fold_digest(folds)
        write_json(output.digest, {"sha256": digest, "patients": len(eligible), **snakemake.params.settings})
        print(f"{len(eligible)} patients in {len(output.train)} folds, digest {digest}")
