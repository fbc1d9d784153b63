"""Files, tables, errors and jobs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glomflow.errors import CohortError, ConfigError, GlomflowError, ImageError, Problem
from glomflow.files import atomic_path, read_json, sha256_file, sha256_json, write_json, write_text
from glomflow.jobs import job
from glomflow.tables import FOLDS, Column, probability_columns, read_table, write_table

SCHEMA = {
    "name": Column("string", "a name"),
    "count": Column("int64", "a count"),
    "size": Column("float64", "a size, µm"),
    "good": Column("bool", "whether it is good"),
}
ROWS = pd.DataFrame({"name": ["a", None], "count": [1, 2], "size": [0.5, np.nan], "good": [True, False]})


class TestFiles:
    def test_a_file_replaces_its_predecessor(self, tmp_path):
        path = tmp_path / "deep" / "file.txt"
        write_text(path, "one")
        with atomic_path(path) as temporary:
            assert temporary.suffix == ".txt"
            assert temporary.parent == path.parent
            temporary.write_text("two")
            assert path.read_text() == "one"
        assert path.read_text() == "two"
        assert os.listdir(path.parent) == ["file.txt"]

    def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path):
        path = tmp_path / "file.txt"
        write_text(path, "one")

        def write_half() -> None:
            with atomic_path(path) as temporary:
                temporary.write_text("half")
                raise ValueError("stop")

        with pytest.raises(ValueError, match="stop"):
            write_half()
        assert path.read_text() == "one"
        assert os.listdir(tmp_path) == ["file.txt"]

    def test_permissions_follow_the_umask(self, tmp_path):
        before = os.umask(0o027)
        try:
            write_text(tmp_path / "file.txt", "")
        finally:
            os.umask(before)
        assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o640

    def test_json_round_trip(self, tmp_path):
        value = {"b": [1, 2.5, None], "a": "µm"}
        write_json(tmp_path / "value.json", value)
        assert read_json(tmp_path / "value.json") == value
        assert (tmp_path / "value.json").read_text().endswith("}\n")

    @pytest.mark.parametrize("content", [None, b'{"a": 1', b"\xff"], ids=["absent", "cut", "not text"])
    def test_damaged_json(self, tmp_path, content):
        path = tmp_path / "value.json"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(GlomflowError, match=r"value.json: cannot be read \(.*; delete it and run again"):
            read_json(path)

    def test_digests(self, tmp_path):
        (tmp_path / "abc").write_bytes(b"abc")
        expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert sha256_file(tmp_path / "abc") == expected
        assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
        assert sha256_json({"a": 1}) != sha256_json({"a": 2})
        assert sha256_json({"path": Path("x")}) == sha256_json({"path": "x"})


class TestTables:
    def test_round_trip(self, tmp_path):
        write_table(tmp_path / "t.parquet", ROWS[["good", "size", "count", "name"]], SCHEMA)
        found = read_table(tmp_path / "t.parquet", SCHEMA)
        assert list(found.columns) == list(SCHEMA)
        assert [str(dtype) for dtype in found.dtypes] == ["str", "int64", "float64", "bool"]
        assert found["name"].isna().tolist() == [False, True]
        pd.testing.assert_frame_equal(found, ROWS.astype({"name": "str"}))

    def test_an_empty_table_has_its_columns(self, tmp_path):
        write_table(tmp_path / "t.parquet", pd.DataFrame(), SCHEMA)
        found = read_table(tmp_path / "t.parquet", SCHEMA)
        assert len(found) == 0
        assert [str(dtype) for dtype in found.dtypes] == ["str", "int64", "float64", "bool"]

    def test_wrong_columns_are_named(self, tmp_path):
        path = tmp_path / "t.parquet"
        with pytest.raises(
            GlomflowError, match=r"t\.parquet: missing column 'count', 'good'; unknown column 'x'"
        ):
            write_table(path, pd.DataFrame({"name": ["a"], "size": [1.0], "x": [1]}), SCHEMA)
        with pytest.raises(GlomflowError, match=r"t\.parquet, column 'count': not int64 \("):
            write_table(path, ROWS.assign(count=["one", "two"]), SCHEMA)
        with pytest.raises(GlomflowError, match="column 'count': not int64"):
            write_table(path, ROWS.assign(count=[1, np.nan]), SCHEMA)
        assert not path.exists()

    def test_a_table_written_for_another_schema_is_refused(self, tmp_path):
        write_table(tmp_path / "t.parquet", ROWS, SCHEMA)
        with pytest.raises(
            GlomflowError, match="missing column 'fold', 'repeat', 'patient', 'split'; unknown column 'name'"
        ):
            read_table(tmp_path / "t.parquet", FOLDS)

    def test_extra_and_open_columns(self, tmp_path):
        extra = probability_columns(["MN", "LN"])
        assert list(extra) == ["p_MN", "p_LN"]
        assert extra["p_MN"].meaning == "probability of MN, 0 to 1"
        rows = ROWS.assign(p_LN=[0.25, 0.5], p_MN=[0.75, 0.5])
        write_table(tmp_path / "t.parquet", rows, SCHEMA, extra)
        assert list(read_table(tmp_path / "t.parquet", SCHEMA, extra).columns) == [*SCHEMA, "p_MN", "p_LN"]
        assert list(read_table(tmp_path / "t.parquet", SCHEMA, open_ended=True).columns) == [
            *SCHEMA,
            "p_MN",
            "p_LN",
        ]
        with pytest.raises(GlomflowError, match="unknown column 'p_MN', 'p_LN'"):
            read_table(tmp_path / "t.parquet", SCHEMA)
        with pytest.raises(GlomflowError, match="missing column 'more'"):
            read_table(tmp_path / "t.parquet", SCHEMA, {"more": Column("bool", "")}, open_ended=True)

    @pytest.mark.parametrize("content", [None, b"", b"not parquet at all"])
    def test_an_unreadable_table(self, tmp_path, content):
        path = tmp_path / "t.parquet"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(
            GlomflowError, match=r"t\.parquet: cannot be read \(.*\); delete it and run again"
        ):
            read_table(path, SCHEMA)


class TestErrors:
    def test_a_problem_says_where(self):
        assert (
            str(Problem("a.csv", 3, "label", "XX", "wrong"))
            == "a.csv, row 3, column 'label', value 'XX': wrong"
        )
        assert str(Problem("a.csv", None, None, None, "empty")) == "a.csv: empty"

    def test_a_cohort_error_lists_all(self):
        one = CohortError([Problem("a.csv", None, None, None, "empty")])
        assert str(one) == "1 problem in the cohort sheets:\n  1. a.csv: empty"
        two = CohortError(Problem("a.csv", row, None, None, "bad") for row in (2, 3))
        assert str(two).splitlines()[0] == "2 problems in the cohort sheets:"
        assert [problem.row for problem in two.problems] == [2, 3]

    def test_kinds(self):
        error = ImageError("blank", "a.tif: blank")
        assert (error.status, error.reason, str(error)) == ("blank", "a.tif: blank", "a.tif: blank")
        assert all(issubclass(kind, GlomflowError) for kind in (CohortError, ConfigError, ImageError))


JOB = """
import os, sys
from glomflow.errors import GlomflowError
from glomflow.jobs import job
with job(sys.argv[1], threads=3):
    print("printed", os.environ["OMP_NUM_THREADS"], flush=True)
    os.write(2, b"from C\\n")
    {body}
print("after")
"""


class TestJobs:
    def run(self, log: Path, body: str) -> subprocess.CompletedProcess:
        text = JOB.replace("{body}", body)
        return subprocess.run(
            [sys.executable, "-c", text, str(log)], capture_output=True, text=True, check=False
        )

    def test_output_goes_to_log_and_console(self, tmp_path):
        done = self.run(tmp_path / "logs" / "a.log", "pass")
        assert done.returncode == 0
        assert done.stderr == "printed 3\nfrom C\n"
        assert done.stdout.endswith("after\n")
        first, _, rest = (tmp_path / "logs" / "a.log").read_text().partition("\n")
        assert first.startswith("host ")
        assert rest.startswith("printed 3\nfrom C\nused ")
        assert rest.count("\n") == 3

    def test_a_user_error_is_one_message_with_the_traceback_in_the_log(self, tmp_path):
        done = self.run(tmp_path / "a.log", "raise GlomflowError('a.tif: blank; scan it again')")
        console = done.stdout + done.stderr
        assert done.returncode == 1
        assert "error: a.tif: blank; scan it again" in console
        assert "Traceback" not in console
        assert "after" not in console
        log = (tmp_path / "a.log").read_text()
        assert "Traceback" in log
        assert log.endswith("error: a.tif: blank; scan it again\n")

    def test_a_bug_shows_its_traceback(self, tmp_path):
        done = self.run(tmp_path / "a.log", "1 / 0")
        assert done.returncode == 1
        assert "ZeroDivisionError" in done.stdout + done.stderr
        assert "ZeroDivisionError" in (tmp_path / "a.log").read_text()

    def test_in_this_process_the_descriptors_come_back(self, tmp_path, capfd):
        with pytest.raises(SystemExit) as caught, job(tmp_path / "a.log"):
            raise GlomflowError("no")
        assert caught.value.code == 1
        print("still here", flush=True)
        assert "still here" in capfd.readouterr().out
        assert json.dumps((tmp_path / "a.log").read_text().splitlines()[-1]) == '"error: no"'
