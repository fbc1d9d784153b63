# Colours that are fitted per fold need the patients of the whole cohort, whatever the models' tasks.
FOLD_TASKS = ["disease", *(task for task in TASKS if task != "disease")]


rule folds:
    """Deal the patients into train, validation and test, and prove that nothing crosses."""
    input:
        patients=result("cohort/patients.parquet"),
        inventory=result("inventory.parquet"),
    output:
        **{
            f"{task}_{split}": expand(fold_table(split, task), fold=FOLDS)
            for task in FOLD_TASKS
            for split in ("train", "test")
        },
        folds=result("folds/folds.parquet"),
        digest=result("folds/folds.json"),
        excluded=result("folds/excluded.parquet"),
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
        settings={**dump(CONFIG.folds), "sites": left_out_sites()},
        classes={task: CONFIG.classes_of(task) for task in FOLD_TASKS},
        seed=CONFIG.run.seed,
        code=code("folds.py"),
    script:
        "../workflow_scripts/folds.py"
