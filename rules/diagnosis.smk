if FROZEN:

    rule train_frozen:
        """Train all models with frozen encoders on one fold; the test patients' labels are not an input."""
        input:
            unpack(job_inputs(FROZEN, "train")),
        output:
            weights=frozen_files("models/{model}/fold{fold}_seed{seed}.safetensors"),
            settings=frozen_files("models/{model}/fold{fold}_seed{seed}.json"),
            history=frozen_files("models/{model}/fold{fold}_seed{seed}.history.parquet"),
        log:
            result("logs/train/fold{fold}.log"),
        benchmark:
            result("benchmarks/train/fold{fold}.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=3000,
            runtime=720,
            gpu=0,
        params:
            configs=job_configs,
            repeats=job_repeats(FROZEN, "train"),
            seeds=SEEDS,
            checkpoints=frozen_files("checkpoints/{model}_fold{fold}_seed{seed}.pt"),
            code=code("train.py"),
        script:
            "../workflow_scripts/train.py"

    rule predict_frozen:
        """Predict the held-out fold with all models with frozen encoders."""
        input:
            unpack(job_inputs(FROZEN, "test")),
            weights=frozen_files("models/{model}/fold{fold}_seed{seed}.safetensors"),
            settings=frozen_files("models/{model}/fold{fold}_seed{seed}.json"),
        output:
            predictions=frozen_files(
                "predictions/{model}/fold{fold}_seed{seed}.parquet"
            ),
            instances=frozen_files("instances/{model}/fold{fold}_seed{seed}.parquet"),
        log:
            result("logs/predict/fold{fold}.log"),
        benchmark:
            result("benchmarks/predict/fold{fold}.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=3000,
            runtime=60,
            gpu=0,
        params:
            configs=job_configs,
            repeats=job_repeats(FROZEN, "test"),
            seeds=SEEDS,
            code=code("predict.py"),
        script:
            "../workflow_scripts/predict.py"


if TRAINED:

    rule train:
        """Train one model and its encoders on one fold; the test patients' labels are not an input."""
        input:
            unpack(job_inputs([], "train")),
            encoder=trained_weights,
        output:
            weights=result("models/{model}/fold{fold}_seed{seed}.safetensors"),
            settings=result("models/{model}/fold{fold}_seed{seed}.json"),
            history=result("models/{model}/fold{fold}_seed{seed}.history.parquet"),
        log:
            result("logs/train/{model}/fold{fold}_seed{seed}.log"),
        benchmark:
            result("benchmarks/train/{model}/fold{fold}_seed{seed}.tsv")
        wildcard_constraints:
            model="|".join(TRAINED),
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=3000,
            runtime=720,
            gpu=CONFIG.diagnosis.training.devices,
        params:
            configs=job_configs,
            repeats=job_repeats([], "train"),
            seeds=lambda wildcards: [int(wildcards.seed)],
            checkpoints=[result("checkpoints/{model}_fold{fold}_seed{seed}.pt")],
            code=code("train.py"),
        script:
            "../workflow_scripts/train.py"

    rule predict:
        """Predict the held-out fold with one model and its encoders."""
        input:
            unpack(job_inputs([], "test")),
            weights=result("models/{model}/fold{fold}_seed{seed}.safetensors"),
            settings=result("models/{model}/fold{fold}_seed{seed}.json"),
        output:
            predictions=result("predictions/{model}/fold{fold}_seed{seed}.parquet"),
            instances=result("instances/{model}/fold{fold}_seed{seed}.parquet"),
        log:
            result("logs/predict/{model}/fold{fold}_seed{seed}.log"),
        benchmark:
            result("benchmarks/predict/{model}/fold{fold}_seed{seed}.tsv")
        wildcard_constraints:
            model="|".join(TRAINED),
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=3000,
            runtime=60,
            gpu=1,
        params:
            configs=job_configs,
            repeats=job_repeats([], "test"),
            seeds=lambda wildcards: [int(wildcards.seed)],
            code=code("predict.py"),
        script:
            "../workflow_scripts/predict.py"
