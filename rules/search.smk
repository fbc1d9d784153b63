rule search:
    """Choose a model's settings within the training and validation patients of a fold."""
    input:
        unpack(model_inputs),
        table=model_table("train"),
        encoder=[] if CACHED else encoder_weights(),
    output:
        chosen=result("search/{model}/fold{fold}.json"),
        trials=result("search/{model}/fold{fold}.trials.parquet"),
    log:
        result("logs/search/{model}/fold{fold}.log"),
    benchmark:
        result("benchmarks/search/{model}/fold{fold}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=1440,
        gpu=0 if CACHED else 1,
    params:
        config=lambda wildcards: search_settings(wildcards.model),
        journal=result("checkpoints/search_{model}_fold{fold}.json"),
        code=code("search.py"),
    script:
        "../workflow_scripts/search.py"
