from glomflow.run_plan import PLAN, write_plan


def declared(job, name):
    """A resource as its rule declares it; evaluating all of a job's resources takes many times longer."""
    resource = job.rule.resources.get(name)
    if resource is None:
        return 0
    value = resource.evaluate(
        job.wildcards, input=job.input, threads=1, attempt=1
    ).value
    return value if isinstance(value, int) else 0


def stored_at(path):
    """A file as the plan names it: where storage has it, or, of those that stay on the disk beside it, whole."""
    if path.is_storage:
        return path.storage_object.query
    return str(path) if RECORDS == R else str(Path(path).absolute())


def store_plan(plan):
    """Puts the plan where the results are; Snakemake's own plugin makes the bucket if there is none."""
    stored = workflow.storage_registry.default_storage_provider.object(
        f"{RECORDS}/{PLAN}"
    )
    stored.set_local_path(plan)
    workflow.async_run(stored.managed_store())


def planned_job(job):
    """A job of this run, as `glomflow status` and the report's costs read it."""
    return {
        "id": workflow.dag.jobid(job),
        "rule": job.rule.name,
        "wildcards": dict(job.wildcards_dict),
        "outputs": [stored_at(path) for path in job.output],
        "log": stored_at(job.log[0]),
        "benchmark": stored_at(job.benchmark),
        "threads": declared(job, "_cores"),
        "gpus": declared(job, "gpu"),
        "needed": workflow.dag.needrun(job),
    }


onstart:
    planned = [planned_job(job) for job in workflow.dag.jobs if job.log]
    if RECORDS == R:
        write_plan(Path(R) / PLAN, R, planned, log)
    else:
        with tempfile.TemporaryDirectory(prefix="glomflow-plan-") as scratch:
            write_plan(Path(scratch) / PLAN, RECORDS, planned, log)
            store_plan(Path(scratch) / PLAN)
