"""Jobs of a plan, as the workflow hands them over."""


def job_fields(number: int, name: str, needed: bool = True, results: str = "results") -> dict:
    """Returns a job that opens the images of a shard; two of its outputs, one of them a folder."""
    return {
        "id": number,
        "rule": "ingest",
        "wildcards": {"shard": name},
        "outputs": [f"{results}/opened/{name}.parquet", f"{results}/opened/thumbnails/{name}"],
        "log": f"{results}/logs/ingest/{name}.log",
        "benchmark": f"{results}/benchmarks/ingest/{name}.tsv",
        "threads": 2,
        "gpus": 0,
        "needed": needed,
    }
