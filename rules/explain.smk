rule explain:
    """Say what each prediction of a held-out fold rests on; no test label enters."""
    input:
        unpack(model_inputs),
        table=model_table("train"),
        patients=model_table("test"),
        search=search_results,
        weights=result("models/{model}/fold{fold}_seed{seed}.safetensors"),
        settings=result("models/{model}/fold{fold}_seed{seed}.json"),
    output:
        maps=result("explanations/{model}/fold{fold}_seed{seed}.npy"),
        index=result("explanations/{model}/fold{fold}_seed{seed}.parquet"),
        contributions=result(
            "explanations/{model}/fold{fold}_seed{seed}.contributions.parquet"
        ),
        curves=result("explanations/{model}/fold{fold}_seed{seed}.curves.parquet"),
    log:
        result("logs/explain/{model}/fold{fold}_seed{seed}.log"),
    benchmark:
        result("benchmarks/explain/{model}/fold{fold}_seed{seed}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=240,
        gpu=gpus,
    params:
        config=lambda wildcards: explain_settings(wildcards.model),
        code=code("explain.py"),
    script:
        "../workflow_scripts/explain.py"


rule explanation_checks:
    """Check explanations: by deletion, against randomised models, and where truth is known."""
    input:
        **explanation_files(),
        patients=result("cohort/patients.parquet"),
        images=result("cohort/images.parquet"),
        inventory=result("inventory.parquet"),
        om_index=store("om", "parquet"),
        tem_index=store("tem", "parquet"),
        truth=phantom("phantom.json") if PHANTOM else [],
    output:
        [f"{R}/explanations/{name}.parquet" for name in EXPLANATION_TABLES],
    log:
        result("logs/explanation_checks.log"),
    benchmark:
        result("benchmarks/explanation_checks.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
        gpu=0,
    params:
        config=explanation_checks_settings(),
        folder=FOLDER,
        code=code("explanation_checks.py"),
    script:
        "../workflow_scripts/explanation_checks.py"


rule figures_explanations:
    """Draw what predictions rest on, for patients chosen by a stated rule, and the checks."""
    input:
        **explanation_files(),
        **picture_inputs(),
        explanation_checks=rules.explanation_checks.output,
        phantom=phantom("phantom.json") if PHANTOM else [],
    output:
        *figures(["explanation_panels"], "png", "Explanations"),
        *figures(EXPLANATION_CURVES, "svg", "Explanations"),
    log:
        result("logs/figures_explanations.log"),
    benchmark:
        result("benchmarks/figures_explanations.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=0,
    params:
        config=dump(CONFIG),
        folder=FOLDER,
        code=code("figures.py"),
    script:
        "../workflow_scripts/figures.py"
