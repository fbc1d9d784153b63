rule features:
    """Encode a crop store once, for all folds and models."""
    input:
        crops=R + "/crops/{modality}/{shard}.npy",
        index=R + "/crops/{modality}/{shard}.parquet",
    output:
        R + "/features/{modality}/{shard}.npy",
    params:
        settings=dump(CONFIG.encoder),
        offline=CONFIG.run.offline,
        code=code("features.py"),
    log:
        R + "/logs/features/{modality}/{shard}.log",
    benchmark:
        R + "/benchmarks/features/{modality}/{shard}.tsv"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=120,
        gpu=0,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/features.py"
