"""A cohort in a bucket, on a client that holds its objects in memory."""

import hashlib
from pathlib import Path

import pytest

from glomflow.cohort import bucket as module
from glomflow.cohort.bucket import Bucket, BucketFolder, bucket_at, cohort_files, is_bucket
from glomflow.cohort.disk import CohortBucket, folder_checks
from glomflow.cohort.fingerprint import require_sheets, sheet_fingerprint
from glomflow.cohort.sheets import read_cohort, shard_of
from glomflow.errors import CohortError, GlomflowError


class Client:
    """What is used of boto3's client."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.listed: list[str] = []
        self.downloaded: list[str] = []

    def get_paginator(self, name: str) -> "Client":
        assert name == "list_objects_v2"
        return self

    def paginate(self, *, Bucket: str, Prefix: str):
        assert Bucket == "hospital"
        self.listed.append(Prefix)
        entries = [
            {"Key": key, "Size": len(data), "ETag": f'"{hashlib.md5(data).hexdigest()}"'}
            for key, data in sorted(self.objects.items())
            if key.startswith(Prefix)
        ]
        for start in range(0, len(entries), 2):
            yield {"Contents": entries[start : start + 2]}
        if not entries:
            yield {}

    def download_file(self, bucket: str, key: str, target: str) -> None:
        self.downloaded.append(key)
        Path(target).write_bytes(self.objects[key])


PATIENTS = b"patient,label,site\np1,MN,a\np2,LN,b\n"
IMAGES = b"patient,modality,path\np1,TEM,t/1.tif\np2,TEM,t/2.tif\n"


@pytest.fixture
def client(monkeypatch) -> Client:
    objects = {
        "study/patients.csv": PATIENTS,
        "study/images.csv": IMAGES,
        "study/t/1.tif": b"first",
        "study/t/1.tif.txt": b"beside",
        "study/t/1.json": b"also beside",
        "study/t/10.tif": b"another",
        "study/t/2.tif": b"second one",
        "study/s/a.mrxs": b"slide",
        "study/s/a/Data.dat": b"pixels",
        "study/z.zarr/zarr.json": b"{}",
        "study/z.zarr/0/0": b"chunk",
        "study/v/b.vms": b"[x]\nImageFile=b_1.jpg\nMapFile=gone.jpg\n",
        "study/v/b_1.jpg": b"jpeg",
        "elsewhere": b"no",
    }
    client = Client(objects)
    monkeypatch.setattr(module, "_client", lambda address: client)
    bucket_at.cache_clear()
    yield client
    bucket_at.cache_clear()


def test_what_is_a_bucket() -> None:
    assert is_bucket("s3://hospital/study")
    assert not is_bucket("/data/s3:/x")
    assert not is_bucket(None)


def test_an_address_needs_a_bucket(client) -> None:
    with pytest.raises(GlomflowError, match="names no bucket"):
        Bucket("s3:///study")


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("t/1.tif", ["t/1.json", "t/1.tif", "t/1.tif.txt"]),
        ("s/a.mrxs", ["s/a.mrxs", "s/a/Data.dat"]),
        ("z.zarr", ["z.zarr/0/0", "z.zarr/zarr.json"]),
        ("v/b.vms", ["v/b.vms", "v/b_1.jpg"]),
        ("t/3.tif", []),
    ],
)
def test_an_image_comes_with_its_parts(client, tmp_path, path: str, names: list[str]) -> None:
    folder = BucketFolder.at(tmp_path, Bucket("s3://hospital/study/"))
    assert folder / path == tmp_path / path
    found = sorted(one.relative_to(tmp_path).as_posix() for one in tmp_path.rglob("*") if one.is_file())
    assert found == names
    before = len(client.listed)
    assert folder / path == tmp_path / path
    assert len(client.listed) == before


@pytest.mark.parametrize("path", ["../t/1.tif", "/etc/passwd"])
def test_a_path_out_of_the_folder_is_refused(client, tmp_path, path: str) -> None:
    with pytest.raises(GlomflowError, match="leaves the cohort folder"):
        BucketFolder.at(tmp_path, Bucket("s3://hospital/study")) / path


def test_the_scratch_folder_goes(client, capsys) -> None:
    with cohort_files("s3://hospital/study") as folder:
        assert (folder / "t/2.tif").read_bytes() == b"second one"
        place = Path(str(folder))
    assert not place.exists()
    assert "fetched 1 files" in capsys.readouterr().out
    with cohort_files("some/folder") as folder:
        assert folder == Path("some/folder")


def test_sheets_are_read_and_files_checked_by_the_listing(client, tmp_path) -> None:
    def read():
        folder = BucketFolder.at(tmp_path / "scratch", Bucket("s3://hospital/study"))
        return read_cohort(folder, "patients.csv", "images.csv", classes=["MN", "LN"], n_splits=1, shards=2)

    _, images = read()
    assert images["path"].tolist() == ["t/1.tif", "t/2.tif"]
    assert client.downloaded == ["study/patients.csv", "study/images.csv"]
    client.objects["study/t/2.tif"] = b"first"
    with pytest.raises(CohortError, match="patients 'p1' and 'p2' share one file"):
        read()
    del client.objects["study/t/2.tif"]
    with pytest.raises(CohortError) as caught:
        read()
    assert "there is no such file in s3://hospital/study; put it there" in str(caught.value)


def test_parts_that_are_missing_are_named(client, tmp_path) -> None:
    del client.objects["study/s/a/Data.dat"]
    checks = folder_checks(BucketFolder.at(tmp_path, Bucket("s3://hospital/study")))
    assert isinstance(checks, CohortBucket)
    assert checks.examine("s/a.mrxs", images=True)[0].startswith("'s/a/', which belongs to this image")
    assert checks.examine("z.zarr", images=True) == ("", 7)
    assert "did you mean 't/1.tif'?" in checks.examine("t/1.tiff", images=True)[0]
    assert "holds '..'" in checks.examine("../x")[0]


def test_the_fingerprint_follows_the_objects(client, tmp_path) -> None:
    sheet = tmp_path / "images.csv"
    assert sheet_fingerprint(sheet, "s3://hospital/study", 50, 0) == "pending"
    sheet.write_bytes(IMAGES)

    def prints() -> list[str]:
        bucket_at.cache_clear()
        shards = (shard_of("p1", 50), shard_of("p2", 50), None)
        return [sheet_fingerprint(sheet, "s3://hospital/study/", 50, shard) for shard in shards]

    before = prints()
    assert prints() == before
    client.objects["study/t/1.tif.txt"] = b"changed"
    after = prints()
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, False]


def test_sheets_that_are_missing_are_named(client) -> None:
    require_sheets("s3://hospital/study", ["patients.csv", "images.csv"])
    with pytest.raises(CohortError, match=r"labels.csv: the sheet is not in s3://hospital/study"):
        require_sheets("s3://hospital/study", ["labels.csv"])


def test_errors_of_the_service_name_the_bucket(client, monkeypatch) -> None:
    error = type("ClientError", (Exception,), {"__module__": "botocore.exceptions"})

    def refuse(**settings):
        raise error("AccessDenied")

    monkeypatch.setattr(client, "paginate", refuse)
    with pytest.raises(GlomflowError, match="s3://hospital/study: AccessDenied; check the address"):
        Bucket("s3://hospital/study").listing()


def test_jobs_take_the_listing_of_the_process_that_sent_them(client, tmp_path) -> None:
    listing = tmp_path / ".snakemake" / "bucket.json"
    head, job, other = (Bucket(f"s3://hospital/{name}") for name in ("study", "study", "study/t"))
    job.share_listing(listing, False)
    head.share_listing(listing, True)
    assert head.stamps == Bucket("s3://hospital/study").stamps
    client.listed.clear()
    assert job.stamps == head.stamps
    assert job.known_parts("t/1.tif") == head.known_parts("t/1.tif")
    assert client.listed == []
    # That of another cohort is none of its own.
    other.share_listing(listing, False)
    assert set(other.stamps) == {"1.tif", "1.tif.txt", "1.json", "10.tif", "2.tif"}
    # The next run lists anew.
    client.objects["study/t/1.tif"] = b"replaced"
    again = Bucket("s3://hospital/study")
    again.share_listing(listing, True)
    assert again.stamps["t/1.tif"] != head.stamps["t/1.tif"]


def test_a_listing_that_cannot_be_passed_on_is_made_by_each(client, tmp_path) -> None:
    (tmp_path / ".snakemake").write_text("a file where the folder should be")
    for starts in (True, False):
        bucket = Bucket("s3://hospital/study")
        bucket.share_listing(tmp_path / ".snakemake" / "bucket.json", starts)
        assert "t/1.tif" in bucket.stamps
    assert client.listed == ["study/", "study/"]
