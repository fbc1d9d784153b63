import os
import sys

from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


sys.path.insert(0, os.path.join(workflow.basedir, "src"))


include: "rules/common.smk"
include: "rules/run_plan.smk"


if CONFIG.run.container:

    container: CONFIG.run.container


rule all:
    """The report, and everything it rests on."""
    input:
        result("report.html"),


include: "rules/cohort.smk"
include: "rules/imaging.smk"


if FINDER.enabled:

    include: "rules/finder.smk"


include: "rules/folds.smk"
include: "rules/fold_colours.smk"
include: "rules/features.smk"


if SEARCH:

    include: "rules/search.smk"


include: "rules/diagnosis.smk"
include: "rules/evaluation.smk"


if EXPLAINED:

    include: "rules/explain.smk"


include: "rules/few_shot.smk"
include: "rules/report.smk"


LIBRARY.save()
