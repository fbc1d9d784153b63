from glomflow.run_plan import write_plan


def declared(job, name):
    """A resource as its rule declares it; evaluating all of a job's resources takes many times longer."""
    resource = job.rule.resources.get(name)
    if resource is None:
        return 0
    value = resource.evaluate(
        job.wildcards, input=job.input, threads=1, attempt=1
    ).value
    return value if isinstance(value, int) else 0


def planned_job(job):
    """A job of this run, as `glomflow status` and the report's costs read it."""
    return {
        "id": workflow.dag.jobid(job),
        "rule": job.rule.name,
        "wildcards": dict(job.wildcards_dict),
        "outputs": [str(path) for path in job.output],
        "log": str(job.log[0]),
        "benchmark": str(job.benchmark),
        "threads": declared(job, "_cores"),
        "gpus": declared(job, "gpu"),
        "needed": workflow.dag.needrun(job),
    }


onstart:
    write_plan(R, (planned_job(job) for job in workflow.dag.jobs if job.log), log)
