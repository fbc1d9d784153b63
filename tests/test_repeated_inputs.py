"""Inputs that several models of a job read."""

from glomflow.repeated_inputs import with_repeats, without_repeats


def test_the_same_files_are_declared_once() -> None:
    files = {
        "model0_table": "t.parquet",
        "model0_om_index": ["a", "b"],
        "model0_search": [],
        "model1_table": "t.parquet",
        "model1_om_index": ["a", "b"],
        "model1_tem_index": ["b", "a"],
        "model1_search": [],
    }
    kept, repeats = without_repeats(files)
    assert repeats == {"model1_table": "model0_table", "model1_om_index": "model0_om_index"}
    assert list(kept) == [
        "model0_table",
        "model0_om_index",
        "model0_search",
        "model1_tem_index",
        "model1_search",
    ]
    assert with_repeats(kept, repeats) == files
