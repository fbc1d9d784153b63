if PHANTOM:

    rule phantom_sheets:
        """Decide the phantom cohort and write its sheets, captions and ground truth."""
        output:
            patients=R + "/phantom/patients.csv",
            images=R + "/phantom/images.csv",
            captions=R + "/phantom/captions.csv",
            truth=R + "/phantom/phantom.json",
        params:
            settings=dump(CONFIG.phantom),
            code=code("phantom_sheets.py"),
        log:
            R + "/logs/phantom_sheets.log",
        benchmark:
            R + "/benchmarks/phantom_sheets.tsv"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=10,
            gpu=0,
        conda:
            "../envs/glomflow.yaml"
        script:
            "../workflow_scripts/phantom_sheets.py"

    rule phantom_images:
        """Draw the images of a shard's phantom patients."""
        input:
            truth=R + "/phantom/phantom.json",
        output:
            manifest=R + "/phantom/shards/{shard}.json",
        params:
            settings=dump(CONFIG.phantom),
            shards=CONFIG.run.shards,
            folder=FOLDER,
            code=code("phantom_images.py"),
        log:
            R + "/logs/phantom_images/{shard}.log",
        benchmark:
            R + "/benchmarks/phantom_images/{shard}.tsv"
        threads: 1
        resources:
            mem_mb=1500,
            runtime=30,
            gpu=0,
        conda:
            "../envs/glomflow.yaml"
        script:
            "../workflow_scripts/phantom_images.py"


rule cohort:
    """Check the sheets as a whole and deal the patients into shards."""
    input:
        sheets=sheets(),
        manifests=(
            expand(R + "/phantom/shards/{shard}.json", shard=SHARDS) if PHANTOM else []
        ),
    output:
        patients=R + "/cohort/patients.parquet",
        images=R + "/cohort/images.parquet",
        shards=expand(R + "/cohort/images/{shard}.parquet", shard=SHARDS),
    params:
        settings=dump(CONFIG.cohort),
        folder=FOLDER,
        n_splits=CONFIG.folds.n_splits,
        diagnosis=DIAGNOSIS,
        code=code("cohort.py"),
    log:
        R + "/logs/cohort.log",
    benchmark:
        R + "/benchmarks/cohort.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=0,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/cohort.py"
