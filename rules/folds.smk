rule folds:
    """Deal the patients into train, validation and test, and prove that nothing crosses."""
    input:
        patients=R + "/cohort/patients.parquet",
        inventory=R + "/inventory.parquet",
    output:
        folds=R + "/folds/folds.parquet",
        digest=R + "/folds/folds.json",
        excluded=R + "/folds/excluded.parquet",
        train=expand(R + "/folds/fold{fold}.train.parquet", fold=FOLDS),
        test=expand(R + "/folds/fold{fold}.test.parquet", fold=FOLDS),
    params:
        settings=dump(CONFIG.folds),
        seed=CONFIG.run.seed,
        code=code("folds.py"),
    log:
        R + "/logs/folds.log",
    benchmark:
        R + "/benchmarks/folds.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/folds.py"
