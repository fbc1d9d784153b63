"""Files that a sheet gives an address and a digest for."""

import hashlib
from pathlib import Path

import pytest

from glomflow.cohort.addresses import wrong_address
from glomflow.cohort.fetch import (
    Download,
    as_params,
    downloads_by_shard,
    is_fetched,
    missing,
    put_in_place,
)
from glomflow.cohort.sheets import shard_of
from glomflow.errors import CohortError, GlomflowError

DIGEST = hashlib.sha256(b"image").hexdigest()
ONE = Download(2, "OM/a.tif", "https://host/data/a.tif?version=2", DIGEST)


@pytest.mark.parametrize(
    ("url", "sha256", "column", "advice"),
    [
        ("ftp://host/a", DIGEST, "url", "not the address of a file"),
        ("https://host/", DIGEST, "url", "not the address of a file"),
        ("https://me:secret@host/a", DIGEST, "url", "user name or password"),
        ("https://host/a", "", "sha256", "needs its SHA-256"),
        ("https://host/a", DIGEST[:-1], "sha256", "64 hexadecimal digits"),
        ("", DIGEST, "sha256", "fill column 'url' in"),
    ],
)
def test_addresses_that_cannot_be_used(url: str, sha256: str, column: str, advice: str) -> None:
    found = wrong_address(url, sha256)
    assert found is not None
    assert found[0] == column
    assert advice in found[1]


@pytest.mark.parametrize(("url", "sha256"), [("", ""), ("http://host/a.tif?b=1", DIGEST.upper())])
def test_addresses_that_can(url: str, sha256: str) -> None:
    assert wrong_address(url, sha256) is None


def sheet(folder: Path, *rows: str) -> Path:
    path = folder / "images.csv"
    path.write_text("\n".join(["patient,path,url,sha256", *rows]), encoding="utf-8")
    return path


def test_downloads_are_read_by_shard(tmp_path: Path) -> None:
    path = sheet(
        tmp_path,
        f"p1, OM/a.tif ,https://host/a.tif,{DIGEST.upper()}",
        "p1,b.tif,,",
        f"p2,c,http://h/c,{DIGEST}",
    )
    found = downloads_by_shard(path, str(tmp_path), 50)
    assert found == {
        shard_of("p1", 50): [Download(2, "OM/a.tif", "https://host/a.tif", DIGEST)],
        shard_of("p2", 50): [Download(4, "c", "http://h/c", DIGEST)],
    }


def test_all_problems_are_listed(tmp_path: Path) -> None:
    path = sheet(
        tmp_path, "p,a,https://host/a,", f"p,b,https://host/b?x=1,{DIGEST}", f"p,c,https://host/b,{DIGEST}"
    )
    with pytest.raises(CohortError) as caught:
        downloads_by_shard(path, str(tmp_path), 2)
    places = [(one.row, one.column) for one in caught.value.problems]
    assert places == [(2, "sha256"), (4, "url")]
    assert "row 3 fetches from the same host and path" in str(caught.value)


def test_a_cohort_in_a_bucket_fetches_nothing(tmp_path: Path) -> None:
    path = sheet(tmp_path, f"p,a,https://host/a,{DIGEST}")
    with pytest.raises(CohortError, match="copy the file there"):
        downloads_by_shard(path, "s3://bucket/cohort", 2)


@pytest.fixture
def retrieved(tmp_path: Path) -> str:
    copy = tmp_path / "storage" / "http" / "host" / "data" / "a.tif"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"image")
    return str(copy)


def test_a_file_is_put_in_place_once(tmp_path: Path, retrieved: str) -> None:
    folder, manifest = tmp_path / "cohort", tmp_path / "fetched.json"
    assert not is_fetched([ONE], folder, manifest)
    assert missing([ONE], folder) == [ONE]
    assert put_in_place(as_params([ONE]), [retrieved], folder, manifest, "images.csv") == 1
    assert (folder / "OM/a.tif").read_bytes() == b"image"
    assert is_fetched([ONE], folder, manifest)
    assert missing([ONE], folder) == []
    assert put_in_place(as_params([ONE]), [], folder, manifest, "images.csv") == 0
    (folder / "OM/a.tif").write_bytes(b"other")
    assert not is_fetched([ONE], folder, manifest)
    with pytest.raises(CohortError, match="delete the file to fetch it again"):
        put_in_place(as_params([ONE]), [], folder, manifest, "images.csv")


def test_another_digest_is_refused_and_the_right_files_stay(tmp_path: Path, retrieved: str) -> None:
    folder, manifest = tmp_path / "cohort", tmp_path / "fetched.json"
    wrong = Download(3, "OM/b.tif", "https://host/data/b.tif", DIGEST)
    Path(retrieved).with_name("b.tif").write_bytes(b"<html>not found</html>")
    copies = [retrieved, str(Path(retrieved).with_name("b.tif"))]
    with pytest.raises(CohortError) as caught:
        put_in_place(as_params([ONE, wrong]), copies, folder, manifest, "images.csv")
    problem = caught.value.problems[0]
    assert (problem.row, problem.column, problem.value) == (3, "sha256", DIGEST)
    assert wrong.url in problem.advice
    assert hashlib.sha256(b"<html>not found</html>").hexdigest() in problem.advice
    assert not manifest.exists()
    assert [path.name for path in (folder / "OM").iterdir()] == ["a.tif"]


@pytest.mark.parametrize("path", ["../a.tif", "/tmp/a.tif", "out/a.tif", ""])
def test_nothing_is_written_outside_the_cohort_folder(tmp_path: Path, retrieved: str, path: str) -> None:
    folder, outside = tmp_path / "cohort", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "out").symlink_to(outside)
    one = Download(2, path, "https://host/data/a.tif", DIGEST)
    with pytest.raises(CohortError):
        put_in_place(as_params([one]), [retrieved], folder, tmp_path / "fetched.json", "images.csv")
    assert list(outside.iterdir()) == []
    assert [entry.name for entry in folder.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, retrieved: str) -> None:
    folder = tmp_path / "cohort"
    folder.write_bytes(b"a file")
    with pytest.raises(GlomflowError, match="make it writable"):
        put_in_place(as_params([ONE]), [retrieved], folder, tmp_path / "fetched.json", "images.csv")
