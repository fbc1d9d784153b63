rule train:
    """Train one model on one fold; the test patients' labels are not an input."""
    input:
        unpack(model_inputs),
        table=R + "/folds/fold{fold}.train.parquet",
    output:
        weights=R + "/models/{model}/fold{fold}_seed{seed}.safetensors",
        settings=R + "/models/{model}/fold{fold}_seed{seed}.json",
        history=R + "/models/{model}/fold{fold}_seed{seed}.history.parquet",
    params:
        config=lambda wildcards: model_settings(wildcards.model),
        checkpoint=R + "/checkpoints/{model}_fold{fold}_seed{seed}.pt",
        code=code("train.py"),
    log:
        R + "/logs/train/{model}/fold{fold}_seed{seed}.log",
    benchmark:
        R + "/benchmarks/train/{model}/fold{fold}_seed{seed}.tsv"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=720,
        gpu=0 if CACHED else 1,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/train.py"


rule predict:
    """Predict the held-out fold with the trained model."""
    input:
        unpack(model_inputs),
        patients=R + "/folds/fold{fold}.test.parquet",
        weights=R + "/models/{model}/fold{fold}_seed{seed}.safetensors",
        settings=R + "/models/{model}/fold{fold}_seed{seed}.json",
    output:
        predictions=R + "/predictions/{model}/fold{fold}_seed{seed}.parquet",
        instances=R + "/instances/{model}/fold{fold}_seed{seed}.parquet",
    params:
        config=lambda wildcards: model_settings(wildcards.model),
        code=code("predict.py"),
    log:
        R + "/logs/predict/{model}/fold{fold}_seed{seed}.log",
    benchmark:
        R + "/benchmarks/predict/{model}/fold{fold}_seed{seed}.tsv"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
        gpu=0 if CACHED else 1,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/predict.py"
