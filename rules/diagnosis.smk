rule train:
    """Train one model on one fold; the test patients' labels are not an input."""
    input:
        unpack(model_inputs),
        table=model_table("train"),
        search=search_results,
        encoder=[] if CACHED else encoder_weights(),
    output:
        weights=result("models/{model}/fold{fold}_seed{seed}.safetensors"),
        settings=result("models/{model}/fold{fold}_seed{seed}.json"),
        history=result("models/{model}/fold{fold}_seed{seed}.history.parquet"),
    log:
        result("logs/train/{model}/fold{fold}_seed{seed}.log"),
    benchmark:
        result("benchmarks/train/{model}/fold{fold}_seed{seed}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=720,
        gpu=0 if CACHED else 1,
    params:
        config=lambda wildcards: model_settings(wildcards.model),
        checkpoint=result("checkpoints/{model}_fold{fold}_seed{seed}.pt"),
        code=code("train.py"),
    script:
        "../workflow_scripts/train.py"


rule predict:
    """Predict the held-out fold with the trained model."""
    input:
        unpack(model_inputs),
        patients=model_table("test"),
        search=search_results,
        weights=result("models/{model}/fold{fold}_seed{seed}.safetensors"),
        settings=result("models/{model}/fold{fold}_seed{seed}.json"),
    output:
        predictions=result("predictions/{model}/fold{fold}_seed{seed}.parquet"),
        instances=result("instances/{model}/fold{fold}_seed{seed}.parquet"),
    log:
        result("logs/predict/{model}/fold{fold}_seed{seed}.log"),
    benchmark:
        result("benchmarks/predict/{model}/fold{fold}_seed{seed}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
        gpu=0 if CACHED else 1,
    params:
        config=lambda wildcards: model_settings(wildcards.model),
        code=code("predict.py"),
    script:
        "../workflow_scripts/predict.py"
