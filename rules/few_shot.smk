rule few_shot_draws:
    """Draw the slides and the labelled glomeruli of every run."""
    input:
        indices=store("om", "parquet"),
        patients=(
            result("cohort/patients.parquet")
            if CONFIG.few_shot.protocol == "leave_one_site_out"
            else []
        ),
    output:
        draws=result("few_shot/draws.parquet"),
        digest=result("few_shot/draws.json"),
    log:
        result("logs/few_shot_draws.log"),
    benchmark:
        result("benchmarks/few_shot_draws.tsv")
    priority: 10
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=0,
    params:
        settings=draw_settings(),
        seed=CONFIG.run.seed,
        code=code("few_shot_draws.py"),
    script:
        "../workflow_scripts/few_shot_draws.py"


rule few_shot:
    """Classify the glomeruli of the test slides by features, colour and texture of a few."""
    input:
        indices=store("om", "parquet"),
        crops=store("om", "npy"),
        features=expand(result("features/om/{shard}.npy"), shard=SHARDS),
        draws=result("few_shot/draws.parquet"),
    output:
        predictions=result("few_shot/predictions/images.parquet"),
    log:
        result("logs/few_shot.log"),
    benchmark:
        result("benchmarks/few_shot.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
        gpu=0,
    params:
        settings=CONFIG.few_shot.model_dump(
            mode="json", exclude={"adapted", "ensembles"}
        ),
        seed=CONFIG.run.seed,
        code=code("few_shot.py"),
    script:
        "../workflow_scripts/few_shot.py"


if ADAPTED:

    rule vlm_prompts:
        """Check that every class that was drawn has prompts that the backbone takes."""
        input:
            draws=result("few_shot/draws.parquet"),
            prompts=prompt_files(),
        output:
            prompts=result("vlm/{backbone}/prompts.json"),
        log:
            result("logs/vlm_prompts/{backbone}.log"),
        benchmark:
            result("benchmarks/vlm_prompts/{backbone}.tsv")
        priority: 10
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=30,
            gpu=0,
        params:
            settings=lambda wildcards: prompt_settings(wildcards.backbone),
            backbone="{backbone}",
            code=code("vlm_prompts.py"),
        script:
            "../workflow_scripts/vlm_prompts.py"


if PHANTOM_VLM:

    rule pretrain_vlm:
        """Train a small vision-language model on captioned phantom glomeruli of patients of no cohort."""
        output:
            weights=result("vlm/phantom/open_clip_model.safetensors"),
            description=result("vlm/phantom/open_clip_config.json"),
            report=result("vlm/phantom/report.json"),
        log:
            result("logs/pretrain_vlm.log"),
        benchmark:
            result("benchmarks/pretrain_vlm.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 2
        resources:
            mem_mb=4000,
            runtime=60,
            gpu=0,
        params:
            settings=dump(CONFIG.vlm.pretraining),
            code=code("pretrain_vlm.py"),
        script:
            "../workflow_scripts/pretrain_vlm.py"


if ADAPTED:

    rule vlm_features:
        """Encode the labelled glomeruli once with a frozen image tower."""
        input:
            unpack(encoding_inputs),
        output:
            features=result("vlm/{backbone}/features.npy"),
            index=result("vlm/{backbone}/features.parquet"),
            description=result("vlm/{backbone}/features.json"),
        log:
            result("logs/vlm_features/{backbone}.log"),
        benchmark:
            result("benchmarks/vlm_features/{backbone}.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=240,
            gpu=1,
        params:
            settings=lambda wildcards: vlm_settings(wildcards.backbone),
            backbone="{backbone}",
            code=code("vlm_features.py"),
        script:
            "../workflow_scripts/vlm_features.py"

    rule few_shot_adapted:
        """Adapt a vision-language model: all that read its frozen features at once, each other by itself."""
        input:
            unpack(backbone_inputs),
            features=result("vlm/{backbone}/features.npy"),
            index=result("vlm/{backbone}/features.parquet"),
            draws=result("few_shot/draws.parquet"),
            prompts=prompt_files(),
            checked=checked_prompts,
        output:
            predictions=result("few_shot/predictions/{backbone}-{adapted}.parquet"),
            geometry=result("few_shot/geometry/{backbone}-{adapted}.parquet"),
        log:
            result("logs/few_shot_adapted/{backbone}-{adapted}.log"),
        benchmark:
            result("benchmarks/few_shot_adapted/{backbone}-{adapted}.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=720,
            gpu=1,
        params:
            settings=lambda wildcards: vlm_settings(
                wildcards.backbone, adapted_names(wildcards)
            ),
            backbone="{backbone}",
            models=adapted_names,
            code=code("few_shot_adapted.py"),
        script:
            "../workflow_scripts/few_shot_adapted.py"

    rule vlm_similarity_maps:
        """Compare the patches of a few test glomeruli with the texts of the classes."""
        input:
            unpack(backbone_inputs),
            features=result("vlm/{backbone}/features.npy"),
            index=result("vlm/{backbone}/features.parquet"),
            draws=result("few_shot/draws.parquet"),
            prompts=prompt_files(),
        output:
            maps=result("vlm/{backbone}/similarity.npy"),
            index=result("vlm/{backbone}/similarity.parquet"),
            said=result("vlm/{backbone}/similarity.json"),
        log:
            result("logs/vlm_similarity_maps/{backbone}.log"),
        benchmark:
            result("benchmarks/vlm_similarity_maps/{backbone}.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=60,
            gpu=1,
        params:
            settings=similarity_settings,
            backbone="{backbone}",
            code=code("vlm_similarity_maps.py"),
        script:
            "../workflow_scripts/vlm_similarity_maps.py"


if CONFIG.few_shot.ensembles:

    rule few_shot_ensembles:
        """Average the probabilities of several methods."""
        input:
            predictions=few_shot_files("predictions"),
        output:
            predictions=result("few_shot/predictions/ensembles.parquet"),
        log:
            result("logs/few_shot_ensembles.log"),
        benchmark:
            result("benchmarks/few_shot_ensembles.tsv")
        conda:
            "../envs/glomflow.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=30,
            gpu=0,
        params:
            members=CONFIG.few_shot.ensembles,
            code=code("few_shot_ensembles.py"),
        script:
            "../workflow_scripts/few_shot_ensembles.py"


rule few_shot_metrics:
    """Mean, spread and intervals of the few-shot runs, respecting slides."""
    input:
        predictions=few_shot_files("predictions") + ensemble_files(),
        geometry=few_shot_files("geometry"),
        draws=result("few_shot/draws.parquet"),
    output:
        metrics=result("few_shot/metrics.parquet"),
        per_run=result("few_shot/per_run.parquet"),
        comparisons=result("few_shot/comparisons.parquet"),
        confusion=result("few_shot/confusion.parquet"),
        recalls=result("few_shot/recalls.parquet"),
        calibration=result("few_shot/calibration.parquet"),
        sites=result("few_shot/sites.parquet"),
    log:
        result("logs/few_shot_metrics.log"),
    benchmark:
        result("benchmarks/few_shot_metrics.tsv")
    conda:
        "../envs/glomflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=0,
    params:
        settings=dump(CONFIG.evaluation),
        methods=CONFIG.few_shot.names,
        seed=CONFIG.run.seed,
        code=code("few_shot_metrics.py"),
    script:
        "../workflow_scripts/few_shot_metrics.py"
