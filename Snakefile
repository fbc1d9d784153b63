import os
import sys

from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


sys.path.insert(0, os.path.join(workflow.basedir, "src"))


include: "rules/common.smk"
include: "rules/cohort.smk"
include: "rules/imaging.smk"
include: "rules/folds.smk"
include: "rules/features.smk"
include: "rules/diagnosis.smk"
include: "rules/few_shot.smk"
include: "rules/evaluation.smk"
include: "rules/report.smk"


rule all:
    """The report, and everything it rests on."""
    input:
        R + "/report.html",
    default_target: True
