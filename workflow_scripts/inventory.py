"""Gathers the shards' inventories and looks for files that stand twice."""

from glomflow.jobs import job


def gather(paths):
    from glomflow.imaging.inventory import gather_inventory
    from glomflow.tables import INVENTORY, read_table

    return gather_inventory([read_table(path, INVENTORY) for path in paths])


if __name__ == "__main__":
    with job(snakemake.log[0], snakemake.threads):
        from glomflow.imaging.inventory import report_problems
        from glomflow.tables import INVENTORY, write_table

        inventory = gather(snakemake.input)
        report_problems(inventory, strict=snakemake.params.strict)
        write_table(snakemake.output[0], inventory, INVENTORY)
