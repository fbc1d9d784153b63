rule few_shot:
    """Draw slides and shots, and classify the glomeruli of the other slides."""
    input:
        indices=store("om", "parquet"),
        crops=store("om", "npy"),
        features=expand(R + "/features/om/{shard}.npy", shard=SHARDS),
    output:
        predictions=R + "/few_shot/predictions.parquet",
        draws=R + "/few_shot/draws.parquet",
        digest=R + "/few_shot/draws.json",
    params:
        settings=dump(CONFIG.few_shot),
        seed=CONFIG.run.seed,
        code=code("few_shot.py"),
    log:
        R + "/logs/few_shot.log",
    benchmark:
        R + "/benchmarks/few_shot.tsv"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
        gpu=0,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/few_shot.py"


rule few_shot_metrics:
    """Mean, spread and intervals of the few-shot runs, respecting slides."""
    input:
        predictions=R + "/few_shot/predictions.parquet",
        draws=R + "/few_shot/draws.parquet",
    output:
        metrics=R + "/few_shot/metrics.parquet",
        per_run=R + "/few_shot/per_run.parquet",
        comparisons=R + "/few_shot/comparisons.parquet",
        confusion=R + "/few_shot/confusion.parquet",
    params:
        settings=dump(CONFIG.evaluation),
        seed=CONFIG.run.seed,
        code=code("few_shot_metrics.py"),
    log:
        R + "/logs/few_shot_metrics.log",
    benchmark:
        R + "/benchmarks/few_shot_metrics.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=0,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/few_shot_metrics.py"
