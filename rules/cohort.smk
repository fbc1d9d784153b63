if PHANTOM:

    rule phantom_sheets:
        """Decide the phantom cohort and write its sheets, captions and ground truth."""
        output:
            patients=phantom("patients.csv"),
            images=phantom("images.csv"),
            captions=phantom("captions.csv"),
            truth=phantom("phantom.json"),
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
            truth=phantom("phantom.json"),
        output:
            manifest=phantom("shards/{shard}.json"),
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


if UNFETCHED:

    rule fetch_images:
        """Fetch a shard's images from the addresses in the sheet, and check their digests."""
        input:
            addresses,
        output:
            local(fetched("{shard}")),
        log:
            result("logs/fetch_images/{shard}.log"),
        benchmark:
            result("benchmarks/fetch_images/{shard}.tsv")
        wildcard_constraints:
            shard="|".join(UNFETCHED),
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=240,
            gpu=0,
        params:
            downloads=lambda wildcards: as_params(ADDRESSED[wildcards.shard]),
            folder=FOLDER,
            sheet=sheet_names()[-1],
            code=code("fetch_images.py"),
        script:
            "../workflow_scripts/fetch_images.py"


rule cohort:
    """Check the sheets as a whole, and the files that they name."""
    input:
        sheets=sheets(),
        fetched=fetched_manifests(),
        manifests=(
            [phantom(f"shards/{shard}.json") for shard in SHARDS] if PHANTOM else []
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
        fetched=fetched_manifest,
        manifest=phantom("shards/{shard}.json") if PHANTOM else [],
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
