rule finder_fields:
    """List the annotated fields and deal them into folds that share no slide and no patient."""
    input:
        images=result("cohort/images.parquet"),
        inventory=result("inventory.parquet"),
    output:
        fields=result("finder/fields.parquet"),
        folds=result("finder/folds.parquet"),
        tables=expand(result("finder/training/{finder}.parquet"), finder=FINDERS),
    log:
        result("logs/finder_fields.log"),
    benchmark:
        result("benchmarks/finder_fields.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        settings=finder_settings("model", "sha256", "n_splits", "validation_fraction"),
        seed=CONFIG.run.seed,
        folds=FINDERS,
        code=code("finder_fields.py"),
    script:
        "../workflow_scripts/finder_fields.py"


rule train_glomerulus_finder:
    """Train the finder of a fold on its annotated fields; its test fields are not an input."""
    input:
        table=result("finder/training/{finder}.parquet"),
        encoder=finder_encoder_weights(),
    output:
        weights=result("finder/models/{finder}.safetensors"),
        description=result("finder/models/{finder}.json"),
        history=result("finder/models/{finder}.history.parquet"),
    log:
        result("logs/train_glomerulus_finder/{finder}.log"),
    benchmark:
        result("benchmarks/train_glomerulus_finder/{finder}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=720,
        gpu=1,
    params:
        files=finder_fingerprint,
        folder=FOLDER,
        settings=finder_settings("um_per_px", "encoder", "training"),
        seed=CONFIG.run.seed,
        offline=CONFIG.run.offline,
        checkpoint=result("checkpoints/finder_{finder}.pt"),
        code=code("train_glomerulus_finder.py"),
    message:
        "Training finder {wildcards.finder}"
    script:
        "../workflow_scripts/train_glomerulus_finder.py"


rule find_glomeruli:
    """Search a shard: annotated fields with the finder that has not seen them, the others with that of all."""
    input:
        images=result("cohort/images/{shard}.parquet"),
        inventory=result("inventory/{shard}.parquet"),
        folds=result("finder/folds.parquet"),
        weights=finder_files("safetensors"),
        descriptions=finder_files("json"),
        model=finder_model(),
    output:
        searched=result("finder/searched/{shard}.parquet"),
        found=result("finder/found/{shard}.parquet"),
        outlines=directory(result("finder/outlines/{shard}")),
    log:
        result("logs/find_glomeruli/{shard}.log"),
    benchmark:
        result("benchmarks/find_glomeruli/{shard}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=240,
        gpu=1,
    params:
        files=fingerprint,
        folder=FOLDER,
        settings=dump(CONFIG.imaging.finder),
        finders=FINDERS,
        code=code("find_glomeruli.py"),
    message:
        "Searching glomeruli of shard {wildcards.shard}"
    script:
        "../workflow_scripts/find_glomeruli.py"


rule finder_metrics:
    """Judge the finders on the annotated fields of slides and patients that they had not seen."""
    input:
        fields=result("finder/fields.parquet"),
        folds=result("finder/folds.parquet"),
        searched=expand(result("finder/searched/{shard}.parquet"), shard=SHARDS),
        found=expand(result("finder/found/{shard}.parquet"), shard=SHARDS),
    output:
        expand(result("finder/metrics/{table}.parquet"), table=FINDER_TABLES),
    log:
        result("logs/finder_metrics.log"),
    benchmark:
        result("benchmarks/finder_metrics.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=0,
    params:
        folder=FOLDER,
        settings=dump(CONFIG.evaluation),
        seed=CONFIG.run.seed,
        code=code("finder_metrics.py"),
    script:
        "../workflow_scripts/finder_metrics.py"
