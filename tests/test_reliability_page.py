"""The table of faults in the documentation is the one that the tests go by."""

from pathlib import Path

from faults import FAULTS, PAGE, page


def test_the_table_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text), "run: python tests/faults.py"


def test_every_fault_is_looked_for_by_its_test(repo) -> None:
    for name, fault in FAULTS.items():
        test = Path(repo / "tests" / fault.test).read_text(encoding="utf-8")
        assert f'FAULTS["{name}"]' in test or f'("{name}", ' in test or f'"{name}",' in test
