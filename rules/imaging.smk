rule ingest:
    """Open every image of a shard: sizes, pixel size, digest, quality, thumbnail."""
    input:
        images=R + "/cohort/images/{shard}.parquet",
    output:
        inventory=R + "/inventory/{shard}.parquet",
        thumbnails=directory(R + "/inventory/thumbnails/{shard}"),
    params:
        files=fingerprint,
        folder=FOLDER,
        settings=dump(CONFIG.imaging.ingest),
        allow_anisotropic=CONFIG.cohort.allow_anisotropic,
        strict=CONFIG.run.strict,
        code=code("ingest.py"),
    log:
        R + "/logs/ingest/{shard}.log",
    benchmark:
        R + "/benchmarks/ingest/{shard}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
        gpu=0,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/ingest.py"


rule inventory:
    """Gather the shards' inventories and look for files that stand twice."""
    input:
        expand(R + "/inventory/{shard}.parquet", shard=SHARDS),
    output:
        R + "/inventory.parquet",
    params:
        strict=CONFIG.run.strict,
        code=code("inventory.py"),
    log:
        R + "/logs/inventory.log",
    benchmark:
        R + "/benchmarks/inventory.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=0,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/inventory.py"


rule stain_profiles:
    """Estimate a stain profile per slide from tissue pixels at low resolution."""
    input:
        images=R + "/cohort/images/{shard}.parquet",
        inventory=R + "/inventory/{shard}.parquet",
    output:
        R + "/stain/{shard}.parquet",
    params:
        files=fingerprint,
        folder=FOLDER,
        settings=dump(CONFIG.imaging.stain),
        code=code("stain_profiles.py"),
    log:
        R + "/logs/stain_profiles/{shard}.log",
    benchmark:
        R + "/benchmarks/stain_profiles/{shard}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
        gpu=0,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/stain_profiles.py"


rule stain_targets:
    """Choose the profile that slides of each stain are matched to."""
    input:
        images=R + "/cohort/images.parquet",
        profiles=expand(R + "/stain/{shard}.parquet", shard=SHARDS),
        reference=stain_reference(),
    output:
        R + "/stain_targets.parquet",
    params:
        folder=FOLDER,
        settings=dump(CONFIG.imaging.stain),
        code=code("stain_targets.py"),
    log:
        R + "/logs/stain_targets.log",
    benchmark:
        R + "/benchmarks/stain_targets.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
        gpu=0,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/stain_targets.py"


rule glomerulus_crops:
    """Cut the annotated glomeruli, stain-normalised, at one resolution."""
    input:
        images=R + "/cohort/images/{shard}.parquet",
        inventory=R + "/inventory/{shard}.parquet",
        profiles=R + "/stain/{shard}.parquet",
        targets=R + "/stain_targets.parquet",
    output:
        crops=R + "/crops/om/{shard}.npy",
        index=R + "/crops/om/{shard}.parquet",
    params:
        files=fingerprint,
        folder=FOLDER,
        settings=dump(CONFIG.imaging.om),
        stain=dump(CONFIG.imaging.stain),
        code=code("glomerulus_crops.py"),
    log:
        R + "/logs/glomerulus_crops/{shard}.log",
    benchmark:
        R + "/benchmarks/glomerulus_crops/{shard}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
        gpu=0,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/glomerulus_crops.py"


rule im_crops:
    """Compose the immunofluorescence crop of each patient."""
    input:
        images=R + "/cohort/images/{shard}.parquet",
        inventory=R + "/inventory/{shard}.parquet",
    output:
        crops=R + "/crops/im/{shard}.npy",
        index=R + "/crops/im/{shard}.parquet",
    params:
        files=fingerprint,
        folder=FOLDER,
        settings=dump(CONFIG.imaging.im),
        code=code("im_crops.py"),
    log:
        R + "/logs/im_crops/{shard}.log",
    benchmark:
        R + "/benchmarks/im_crops/{shard}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=0,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/im_crops.py"


rule tem_tiles:
    """Tile the electron micrographs and keep the most informative tiles."""
    input:
        images=R + "/cohort/images/{shard}.parquet",
        inventory=R + "/inventory/{shard}.parquet",
    output:
        crops=R + "/crops/tem/{shard}.npy",
        index=R + "/crops/tem/{shard}.parquet",
    params:
        files=fingerprint,
        folder=FOLDER,
        settings=dump(CONFIG.imaging.tem),
        code=code("tem_tiles.py"),
    log:
        R + "/logs/tem_tiles/{shard}.log",
    benchmark:
        R + "/benchmarks/tem_tiles/{shard}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
        gpu=0,
    conda:
        "../envs/glomflow.yaml"
    script:
        "../workflow_scripts/tem_tiles.py"
