rule ingest:
    """Open every image of a shard: sizes, pixel size, digest, quality, thumbnail."""
    input:
        images=result("cohort/images/{shard}.parquet"),
    output:
        inventory=result("inventory/{shard}.parquet"),
        thumbnails=directory(result("inventory/thumbnails/{shard}")),
    log:
        result("logs/ingest/{shard}.log"),
    benchmark:
        result("benchmarks/ingest/{shard}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
        gpu=0,
    params:
        files=fingerprint,
        folder=FOLDER,
        settings=dump(CONFIG.imaging.ingest),
        quality=dump(CONFIG.imaging.quality),
        allow_anisotropic=CONFIG.cohort.allow_anisotropic,
        finder=FINDER.enabled,
        strict=CONFIG.run.strict,
        code=code("ingest.py"),
    message:
        "Images of shard {wildcards.shard}: sizes, quality, digests"
    script:
        "../workflow_scripts/ingest.py"


rule inventory:
    """Gather the shards' inventories and look for files that stand twice."""
    input:
        expand(result("inventory/{shard}.parquet"), shard=SHARDS),
    output:
        result("inventory.parquet"),
    log:
        result("logs/inventory.log"),
    benchmark:
        result("benchmarks/inventory.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=0,
    params:
        strict=CONFIG.run.strict,
        code=code("inventory.py"),
    script:
        "../workflow_scripts/inventory.py"


rule stain_profiles:
    """Estimate a stain profile per slide from tissue pixels at low resolution."""
    input:
        images=result("cohort/images/{shard}.parquet"),
        inventory=result("inventory/{shard}.parquet"),
    output:
        result("stain/{shard}.parquet"),
    log:
        result("logs/stain_profiles/{shard}.log"),
    benchmark:
        result("benchmarks/stain_profiles/{shard}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
        gpu=0,
    params:
        files=fingerprint,
        folder=FOLDER,
        settings=dump(CONFIG.imaging.stain),
        code=code("stain_profiles.py"),
    message:
        "Stains of shard {wildcards.shard}"
    script:
        "../workflow_scripts/stain_profiles.py"


rule stain_targets:
    """Take the median profile of each stain over the cohort (target: cohort_median)."""
    input:
        images=result("cohort/images.parquet"),
        profiles=expand(result("stain/{shard}.parquet"), shard=SHARDS),
    output:
        result("stain_targets.parquet"),
    log:
        result("logs/stain_targets.log"),
    benchmark:
        result("benchmarks/stain_targets.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
        gpu=0,
    params:
        folder=FOLDER,
        settings=dump(CONFIG.imaging.stain),
        code=code("stain_targets.py"),
    script:
        "../workflow_scripts/stain_targets.py"


rule glomerulus_crops:
    """Cut the annotated glomeruli, stain-normalised, at one resolution."""
    input:
        images=result("cohort/images/{shard}.parquet"),
        inventory=result("inventory/{shard}.parquet"),
        profiles=result("stain/{shard}.parquet"),
        targets=stain_targets,
        reference=stain_reference(),
        found=found_glomeruli("found"),
        searched=found_glomeruli("searched"),
    output:
        crops=result("crops/om/{shard}.npy"),
        index=result("crops/om/{shard}.parquet"),
    log:
        result("logs/glomerulus_crops/{shard}.log"),
    benchmark:
        result("benchmarks/glomerulus_crops/{shard}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
        gpu=0,
    params:
        files=fingerprint,
        folder=FOLDER,
        settings=dump(CONFIG.imaging.om),
        stain=dump(CONFIG.imaging.stain),
        code=code("glomerulus_crops.py"),
    message:
        "Glomeruli of shard {wildcards.shard}"
    script:
        "../workflow_scripts/glomerulus_crops.py"


rule im_crops:
    """Compose the immunofluorescence crop of each patient."""
    input:
        images=result("cohort/images/{shard}.parquet"),
        inventory=result("inventory/{shard}.parquet"),
    output:
        crops=result("crops/im/{shard}.npy"),
        index=result("crops/im/{shard}.parquet"),
    log:
        result("logs/im_crops/{shard}.log"),
    benchmark:
        result("benchmarks/im_crops/{shard}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=0,
    params:
        files=fingerprint,
        folder=FOLDER,
        settings=dump(CONFIG.imaging.im),
        code=code("im_crops.py"),
    message:
        "Immunofluorescence of shard {wildcards.shard}"
    script:
        "../workflow_scripts/im_crops.py"


rule tem_tiles:
    """Tile the electron micrographs and keep the most informative tiles."""
    input:
        images=result("cohort/images/{shard}.parquet"),
        inventory=result("inventory/{shard}.parquet"),
    output:
        crops=result("crops/tem/{shard}.npy"),
        index=result("crops/tem/{shard}.parquet"),
    log:
        result("logs/tem_tiles/{shard}.log"),
    benchmark:
        result("benchmarks/tem_tiles/{shard}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
        gpu=0,
    params:
        files=fingerprint,
        folder=FOLDER,
        settings=dump(CONFIG.imaging.tem),
        code=code("tem_tiles.py"),
    message:
        "Micrographs of shard {wildcards.shard}"
    script:
        "../workflow_scripts/tem_tiles.py"
