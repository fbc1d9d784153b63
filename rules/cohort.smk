if PHANTOM:

    rule phantom_sheets:
        """Decide the phantom cohort and write its sheets, captions and ground truth."""
        output:
            patients=result("phantom/patients.csv"),
            images=result("phantom/images.csv"),
            captions=result("phantom/captions.csv"),
            truth=result("phantom/phantom.json"),
        log:
            result("logs/phantom_sheets.log"),
        benchmark:
            result("benchmarks/phantom_sheets.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=10,
            gpu=0,
        params:
            settings=dump(CONFIG.phantom),
            code=code("phantom_sheets.py"),
        script:
            "../workflow_scripts/phantom_sheets.py"

    rule phantom_images:
        """Draw the images of a shard's phantom patients."""
        input:
            truth=result("phantom/phantom.json"),
        output:
            manifest=result("phantom/shards/{shard}.json"),
        log:
            result("logs/phantom_images/{shard}.log"),
        benchmark:
            result("benchmarks/phantom_images/{shard}.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=1500,
            runtime=30,
            gpu=0,
        params:
            settings=dump(CONFIG.phantom),
            shards=CONFIG.run.shards,
            code=code("phantom_images.py"),
        script:
            "../workflow_scripts/phantom_images.py"


rule cohort:
    """Check the sheets as a whole, and the files that they name."""
    input:
        sheets=sheets(),
        manifests=(
            expand(result("phantom/shards/{shard}.json"), shard=SHARDS)
            if PHANTOM
            else []
        ),
    output:
        patients=result("cohort/patients.parquet"),
        images=result("cohort/images.parquet"),
    log:
        result("logs/cohort.log"),
    benchmark:
        result("benchmarks/cohort.tsv")
    priority: 10
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=0,
    params:
        **cohort_params(),
        code=code("cohort.py"),
    script:
        "../workflow_scripts/cohort.py"


rule cohort_shard:
    """Write the images of a shard's patients; an edited row redoes its own shard alone."""
    input:
        sheets=sheets() if PHANTOM else ancient(sheets()),
        manifest=result("phantom/shards/{shard}.json") if PHANTOM else [],
    output:
        result("cohort/images/{shard}.parquet"),
    log:
        result("logs/cohort_shard/{shard}.log"),
    benchmark:
        result("benchmarks/cohort_shard/{shard}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=0,
    params:
        **cohort_params(),
        rows=sheet_rows,
        code=code("cohort_shard.py"),
    script:
        "../workflow_scripts/cohort_shard.py"
