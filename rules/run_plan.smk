from glomflow.run_plan import write_plan


def planned_job(job):
    """A job of this run, as `glomflow status` and the report's costs read it."""
    gpus = job.resources.get("gpu", 0)
    return {
        "id": workflow.dag.jobid(job),
        "rule": job.rule.name,
        "wildcards": dict(job.wildcards_dict),
        "outputs": [str(path) for path in job.output],
        "log": str(job.log[0]),
        "benchmark": str(job.benchmark),
        "threads": job.threads,
        "gpus": gpus if isinstance(gpus, int) else 0,
        "needed": workflow.dag.needrun(job),
    }


onstart:
    write_plan(R, (planned_job(job) for job in workflow.dag.jobs if job.log), log)
