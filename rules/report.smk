rule figures_images:
    """Draw what the cohort and its crops look like."""
    input:
        **picture_inputs(),
    output:
        *figures(PICTURES, "png", "Images"),
    params:
        config=dump(CONFIG),
        folder=FOLDER,
        thumbnails=R + "/inventory",
        code=code("figures.py"),
    log:
        R + "/logs/figures_images.log",
    benchmark:
        R + "/benchmarks/figures_images.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=0,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/figures.py"


if DIAGNOSIS:

    rule figures_diagnosis:
        """Draw the results of the diagnosis track."""
        input:
            patients=R + "/cohort/patients.parquet",
            inventory=R + "/inventory.parquet",
            histories=trained(
                R + "/models/{model}/fold{fold}_seed{seed}.history.parquet"
            ),
            metrics=rules.metrics.output,
        output:
            *figures(CURVES, "svg", "Diagnosis"),
        params:
            config=dump(CONFIG),
            runs=RUNS,
            code=code("figures.py"),
        log:
            R + "/logs/figures_diagnosis.log",
        benchmark:
            R + "/benchmarks/figures_diagnosis.tsv"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=30,
            gpu=0,
        conda:
            "../envs/glomflow.yaml"
        script:
            "../workflow_scripts/figures.py"

    rule figures_instances:
        """Draw the TEM tiles that weigh most, next to the ground truth where there is one."""
        input:
            patients=R + "/cohort/patients.parquet",
            tem_crops=store("tem", "npy"),
            tem_index=store("tem", "parquet"),
            predictions=trained(
                R + "/predictions/{model}/fold{fold}_seed{seed}.parquet"
            ),
            instances=trained(R + "/instances/{model}/fold{fold}_seed{seed}.parquet"),
            deposit_tiles=rules.deposits.output.tiles if PHANTOM else [],
        output:
            *figures(["instance_panels"], "png", "Diagnosis"),
        params:
            config=dump(CONFIG),
            folder=FOLDER,
            code=code("figures.py"),
        log:
            R + "/logs/figures_instances.log",
        benchmark:
            R + "/benchmarks/figures_instances.tsv"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=30,
            gpu=0,
        conda:
            "../envs/glomflow.yaml"
        script:
            "../workflow_scripts/figures.py"


if FEW_SHOT:

    rule figures_few_shot:
        """Draw the results of the glomerulus track."""
        input:
            few_shot=rules.few_shot_metrics.output,
        output:
            *figures(["few_shot_curves", "few_shot_confusion"], "svg", "Glomeruli"),
        params:
            config=dump(CONFIG),
            code=code("figures.py"),
        log:
            R + "/logs/figures_few_shot.log",
        benchmark:
            R + "/benchmarks/figures_few_shot.tsv"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=30,
            gpu=0,
        conda:
            "../envs/glomflow.yaml"
        script:
            "../workflow_scripts/figures.py"


rule report:
    """Write the report: one page that fetches nothing."""
    input:
        **report_inputs(),
    output:
        report(
            R + "/report.html",
            caption="../rules/captions/report.rst",
            category="Report",
        ),
    params:
        config=dump(CONFIG),
        runs=RUNS if DIAGNOSIS else [],
        code=code("report.py"),
    log:
        R + "/logs/report.log",
    benchmark:
        R + "/benchmarks/report.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=0,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/report.py"
