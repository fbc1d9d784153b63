rule figures_images:
    """Draw what the cohort and its crops look like."""
    input:
        **picture_inputs(),
        thumbnails=expand(result("inventory/thumbnails/{shard}"), shard=SHARDS),
    output:
        *figures(PICTURES, "png", "Images"),
    log:
        result("logs/figures_images.log"),
    benchmark:
        result("benchmarks/figures_images.tsv")
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
        thumbnails=lambda wildcards, input: str(Path(input.inventory).with_suffix("")),
        code=code("figures.py"),
    script:
        "../workflow_scripts/figures.py"


if FINDER_JUDGED:

    rule figures_finder:
        """Draw how well glomeruli are found."""
        input:
            inventory=result("inventory.parquet"),
            finder=rules.finder_metrics.output,
        output:
            *figures(["finder_outlines"], "png", "Glomerulus finder"),
            *figures(FINDER_CURVES, "svg", "Glomerulus finder"),
        log:
            result("logs/figures_finder.log"),
        benchmark:
            result("benchmarks/figures_finder.tsv")
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


if DIAGNOSIS:

    rule figures_diagnosis:
        """Draw the results of the diagnosis track."""
        input:
            **{f"metrics_{task}": metrics_files(task) for task in TASKS},
            **{
                f"missing_{task}": result(f"metrics/{task}/missing.parquet")
                for task in PARTIAL
            },
            patients=result("cohort/patients.parquet"),
            inventory=result("inventory.parquet"),
            histories=trained(
                result("models/{model}/fold{fold}_seed{seed}.history.parquet")
            ),
        output:
            *figures(CURVES, "svg", "Diagnosis"),
        log:
            result("logs/figures_diagnosis.log"),
        benchmark:
            result("benchmarks/figures_diagnosis.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=30,
            gpu=0,
        params:
            config=dump(CONFIG),
            runs=RUNS,
            code=code("figures.py"),
        script:
            "../workflow_scripts/figures.py"

    rule figures_instances:
        """Draw the TEM tiles that weigh most, next to the ground truth where there is one."""
        input:
            patients=result("cohort/patients.parquet"),
            tem_crops=store("tem", "npy"),
            tem_index=store("tem", "parquet"),
            predictions=trained(
                result("predictions/{model}/fold{fold}_seed{seed}.parquet")
            ),
            instances=trained(result("instances/{model}/fold{fold}_seed{seed}.parquet")),
            deposit_tiles=rules.deposits.output.tiles if PHANTOM else [],
        output:
            *figures(["instance_panels"], "png", "Diagnosis"),
        log:
            result("logs/figures_instances.log"),
        benchmark:
            result("benchmarks/figures_instances.tsv")
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


if FEW_SHOT:

    rule figures_few_shot:
        """Draw the results of the glomerulus track."""
        input:
            few_shot=rules.few_shot_metrics.output,
        output:
            *figures(FEW_SHOT_CURVES, "svg", "Glomeruli"),
        log:
            result("logs/figures_few_shot.log"),
        benchmark:
            result("benchmarks/figures_few_shot.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=30,
            gpu=0,
        params:
            config=dump(CONFIG),
            code=code("figures.py"),
        script:
            "../workflow_scripts/figures.py"


if SIMILARITY:

    rule figures_similarity:
        """Draw how close patches of glomeruli are to the texts of the classes."""
        input:
            om_crops=store("om", "npy"),
            om_index=store("om", "parquet"),
            similarity_maps=similarity_files("npy"),
            similarity_index=similarity_files("parquet"),
            similarity_said=similarity_files("json"),
        output:
            *figures(SIMILARITY, "png", "Glomeruli"),
        log:
            result("logs/figures_similarity.log"),
        benchmark:
            result("benchmarks/figures_similarity.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=30,
            gpu=0,
        params:
            config=dump(CONFIG),
            code=code("figures.py"),
        script:
            "../workflow_scripts/figures.py"


rule report:
    """Write the report: one page that fetches nothing."""
    input:
        **report_inputs(),
    output:
        page=report(
            result("report.html"),
            caption="../rules/captions/report.rst",
            category="Report",
        ),
        costs=result("costs.parquet"),
    log:
        result("logs/report.log"),
    benchmark:
        result("benchmarks/report.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=0,
    params:
        config=dump(CONFIG),
        runs=RUNS if DIAGNOSIS else [],
        plan=f"{RECORDS}/{PLAN}",
        code=code("report.py"),
    script:
        "../workflow_scripts/report.py"
