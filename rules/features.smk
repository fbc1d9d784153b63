rule features:
    """Encode a crop store once, for all folds and models."""
    input:
        crops=result("crops/{modality}/{shard}.npy"),
        index=result("crops/{modality}/{shard}.parquet"),
        weights=frozen_weights,
    output:
        result("features/{encoder}{modality}/{shard}.npy"),
    log:
        result("logs/features/{encoder}{modality}/{shard}.log"),
    benchmark:
        result("benchmarks/features/{encoder}{modality}/{shard}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=120,
        gpu=0,
    params:
        settings=frozen_encoder,
        offline=CONFIG.run.offline,
        code=code("features.py"),
    script:
        "../workflow_scripts/features.py"
