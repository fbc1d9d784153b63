if DIAGNOSIS:

    rule metrics:
        """Where labels and predictions meet: metrics, intervals and paired comparisons."""
        input:
            patients=result("cohort/patients.parquet"),
            excluded=result("folds/excluded.parquet"),
            predictions=trained(
                result("predictions/{model}/fold{fold}_seed{seed}.parquet")
            ),
            truth=result("phantom/phantom.json") if PHANTOM else [],
        output:
            tables=[f"{R}/metrics/{name}.parquet" for name in TABLES],
            settings=result("metrics/summary.json"),
        log:
            result("logs/metrics.log"),
        benchmark:
            result("benchmarks/metrics.tsv")
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

    rule deposits:
        """Whether the tiles that a model weights most show a deposit (phantom truth)."""
        input:
            instances=trained(result("instances/{model}/fold{fold}_seed{seed}.parquet")),
            crops=store("tem", "parquet"),
            inventory=result("inventory.parquet"),
            truth=result("phantom/phantom.json"),
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
