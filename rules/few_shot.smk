rule few_shot:
    """Draw slides and shots, and classify the glomeruli of the other slides."""
    input:
        indices=store("om", "parquet"),
        crops=store("om", "npy"),
        features=expand(result("features/om/{shard}.npy"), shard=SHARDS),
    output:
        predictions=result("few_shot/predictions.parquet"),
        draws=result("few_shot/draws.parquet"),
        digest=result("few_shot/draws.json"),
    log:
        result("logs/few_shot.log"),
    benchmark:
        result("benchmarks/few_shot.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
        gpu=0,
    params:
        settings=dump(CONFIG.few_shot),
        seed=CONFIG.run.seed,
        code=code("few_shot.py"),
    script:
        "../workflow_scripts/few_shot.py"


rule few_shot_metrics:
    """Mean, spread and intervals of the few-shot runs, respecting slides."""
    input:
        predictions=result("few_shot/predictions.parquet"),
        draws=result("few_shot/draws.parquet"),
    output:
        metrics=result("few_shot/metrics.parquet"),
        per_run=result("few_shot/per_run.parquet"),
        comparisons=result("few_shot/comparisons.parquet"),
        confusion=result("few_shot/confusion.parquet"),
    log:
        result("logs/few_shot_metrics.log"),
    benchmark:
        result("benchmarks/few_shot_metrics.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=0,
    params:
        settings=dump(CONFIG.evaluation),
        seed=CONFIG.run.seed,
        code=code("few_shot_metrics.py"),
    script:
        "../workflow_scripts/few_shot_metrics.py"
