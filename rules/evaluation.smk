if DIAGNOSIS:

    rule metrics:
        """Where labels and predictions meet: metrics, intervals and paired comparisons of a task."""
        input:
            patients=result("cohort/patients.parquet"),
            excluded=result("folds/excluded.parquet"),
            predictions=predicted,
            truth=phantom("phantom.json") if PHANTOM else [],
        output:
            tables=[f"{R}/metrics/{{task}}/{name}.parquet" for name in TABLES],
            settings=result("metrics/{task}/summary.json"),
        log:
            result("logs/metrics/{task}.log"),
        benchmark:
            result("benchmarks/metrics/{task}.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=60,
            gpu=0,
        params:
            config=evaluation_settings(),
            code=code("metrics.py"),
        script:
            "../workflow_scripts/metrics.py"

    rule predict_subsets:
        """Predict a fold's test patients from every subset of their modalities, with all its models."""
        input:
            unpack(subset_inputs),
            patients=lambda wildcards: fold_table("test", wildcards.task).format(
                fold=wildcards.fold
            ),
            weights=lambda wildcards: subset_files("weights", wildcards),
            settings=lambda wildcards: subset_files("settings", wildcards),
            searches=lambda wildcards: subset_files("searches", wildcards),
        output:
            result("subsets/{task}/fold{fold}.parquet"),
        log:
            result("logs/predict_subsets/{task}_fold{fold}.log"),
        benchmark:
            result("benchmarks/predict_subsets/{task}_fold{fold}.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=3000,
            runtime=60,
            gpu=lambda wildcards: int(not all(map(is_frozen, PARTIAL[wildcards.task]))),
        params:
            configs=lambda wildcards: {
                model: model_settings(model) for model in PARTIAL[wildcards.task]
            },
            repeats=subset_repeats,
            seeds=SEEDS,
            code=code("predict_subsets.py"),
        script:
            "../workflow_scripts/predict_subsets.py"

    rule missing_curve:
        """Accuracy over the rate at which modalities are missing."""
        input:
            patients=result("cohort/patients.parquet"),
            excluded=result("folds/excluded.parquet"),
            subsets=expand(result("subsets/{{task}}/fold{fold}.parquet"), fold=FOLDS),
        output:
            result("metrics/{task}/missing.parquet"),
        log:
            result("logs/missing_curve/{task}.log"),
        benchmark:
            result("benchmarks/missing_curve/{task}.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=60,
            gpu=0,
        params:
            config=evaluation_settings(),
            code=code("missing_curve.py"),
        script:
            "../workflow_scripts/missing_curve.py"

    rule deposits:
        """Whether the tiles that a model weights most show a deposit (phantom truth)."""
        input:
            instances=trained(result("instances/{model}/fold{fold}_seed{seed}.parquet")),
            crops=store("tem", "parquet"),
            inventory=result("inventory.parquet"),
            truth=phantom("phantom.json"),
        output:
            summary=result("metrics/deposits.parquet"),
            tiles=result("metrics/deposit_tiles.parquet"),
        log:
            result("logs/deposits.log"),
        benchmark:
            result("benchmarks/deposits.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=60,
            gpu=0,
        params:
            settings=dump(CONFIG.evaluation),
            seed=CONFIG.run.seed,
            code=code("deposits.py"),
        script:
            "../workflow_scripts/deposits.py"
