rule fold_stain_targets:
    """Fit the stain targets of a fold to the slides of its training patients."""
    input:
        images=result("cohort/images.parquet"),
        profiles=expand(result("stain/{shard}.parquet"), shard=SHARDS),
        table=result("folds/fold{fold}.train.parquet"),
    output:
        result("stain/targets_fold{fold}.parquet"),
    log:
        result("logs/fold_stain_targets/{fold}.log"),
    benchmark:
        result("benchmarks/fold_stain_targets/{fold}.tsv")
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


rule fold_im_levels:
    """Fit each site's immunofluorescence levels to the training patients of a fold."""
    input:
        patients=result("cohort/patients.parquet"),
        crops=store("im", "npy"),
        index=store("im", "parquet"),
        table=result("folds/fold{fold}.train.parquet"),
    output:
        result("im_levels/fold{fold}.parquet"),
    log:
        result("logs/fold_im_levels/{fold}.log"),
    benchmark:
        result("benchmarks/fold_im_levels/{fold}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=0,
    params:
        code=code("fold_im_levels.py"),
    script:
        "../workflow_scripts/fold_im_levels.py"


rule fold_om_crops:
    """Recolour the glomerulus crops of a shard to the stain targets of a fold."""
    input:
        images=result("cohort/images/{shard}.parquet"),
        profiles=result("stain/{shard}.parquet"),
        targets=result("stain/targets_fold{fold}.parquet"),
        crops=result("crops/om/{shard}.npy"),
        index=result("crops/om/{shard}.parquet"),
    output:
        crops=result("crops/om_fold{fold}/{shard}.npy"),
        index=result("crops/om_fold{fold}/{shard}.parquet"),
    log:
        result("logs/fold_om_crops/{fold}_{shard}.log"),
    benchmark:
        result("benchmarks/fold_om_crops/{fold}_{shard}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=0,
    params:
        keep_white=CONFIG.imaging.om.mask_background,
        code=code("fold_om_crops.py"),
    script:
        "../workflow_scripts/fold_om_crops.py"


rule fold_im_crops:
    """Bring the immunofluorescence crops of a shard to the levels fitted on a fold."""
    input:
        patients=result("cohort/patients.parquet"),
        levels=result("im_levels/fold{fold}.parquet"),
        crops=result("crops/im/{shard}.npy"),
        index=result("crops/im/{shard}.parquet"),
    output:
        crops=result("crops/im_fold{fold}/{shard}.npy"),
        index=result("crops/im_fold{fold}/{shard}.parquet"),
    log:
        result("logs/fold_im_crops/{fold}_{shard}.log"),
    benchmark:
        result("benchmarks/fold_im_crops/{fold}_{shard}.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=0,
    params:
        code=code("fold_im_crops.py"),
    script:
        "../workflow_scripts/fold_im_crops.py"
