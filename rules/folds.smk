rule folds:
    """Deal the patients into train, validation and test, and prove that nothing crosses."""
    input:
        patients=result("cohort/patients.parquet"),
        inventory=result("inventory.parquet"),
    output:
        folds=result("folds/folds.parquet"),
        digest=result("folds/folds.json"),
        excluded=result("folds/excluded.parquet"),
        train=expand(result("folds/fold{fold}.train.parquet"), fold=FOLDS),
        test=expand(result("folds/fold{fold}.test.parquet"), fold=FOLDS),
    log:
        result("logs/folds.log"),
    benchmark:
        result("benchmarks/folds.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        settings=CONFIG.folds.model_dump(
            mode="json", exclude={"repeats", "sites"}
        ),
        seed=CONFIG.run.seed,
        code=code("folds.py"),
    script:
        "../workflow_scripts/folds.py"
