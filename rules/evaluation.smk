if DIAGNOSIS:

    rule metrics:
        """Where labels and predictions meet: metrics, intervals and paired comparisons."""
        input:
            patients=R + "/cohort/patients.parquet",
            excluded=R + "/folds/excluded.parquet",
            predictions=trained(
                R + "/predictions/{model}/fold{fold}_seed{seed}.parquet"
            ),
            truth=R + "/phantom/phantom.json" if PHANTOM else [],
        output:
            tables=[f"{R}/metrics/{name}.parquet" for name in TABLES],
            settings=R + "/metrics/summary.json",
        params:
            config=evaluation_settings(),
            code=code("metrics.py"),
        log:
            R + "/logs/metrics.log",
        benchmark:
            R + "/benchmarks/metrics.tsv"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=60,
            gpu=0,
        conda:
            "../envs/glomflow.yaml"
        script:
            "../workflow_scripts/metrics.py"

    rule deposits:
        """Whether the tiles that a model weights most show a deposit (phantom truth)."""
        input:
            instances=trained(R + "/instances/{model}/fold{fold}_seed{seed}.parquet"),
            crops=store("tem", "parquet"),
            inventory=R + "/inventory.parquet",
            truth=R + "/phantom/phantom.json",
        output:
            summary=R + "/metrics/deposits.parquet",
            tiles=R + "/metrics/deposit_tiles.parquet",
        params:
            settings=dump(CONFIG.evaluation),
            seed=CONFIG.run.seed,
            code=code("deposits.py"),
        log:
            R + "/logs/deposits.log",
        benchmark:
            R + "/benchmarks/deposits.tsv"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=60,
            gpu=0,
        conda:
            "../envs/glomflow.yaml"
        script:
            "../workflow_scripts/deposits.py"
