"""A cohort in an S3 bucket: what is in it, and its files brought to a job that opens them.

Credentials come from the environment only: the variables that Snakemake's S3 plugin reads
(``SNAKEMAKE_STORAGE_S3_ACCESS_KEY``, ``..._SECRET_KEY``, ``..._TOKEN``, ``..._ENDPOINT_URL`` and
``..._REGION``), and where they are not set, what boto3 finds by itself.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import posixpath
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PosixPath
from typing import Any

from glomflow.errors import GlomflowError
from glomflow.files import atomic_path, read_json, write_text
from glomflow.image_parts import SIDECAR_SUFFIXES, named_in_vms

SCHEME = "s3://"
AT_ONCE = 16
"""Small files that are fetched at a time."""
_VARIABLES = {
    "endpoint_url": "SNAKEMAKE_STORAGE_S3_ENDPOINT_URL",
    "region_name": "SNAKEMAKE_STORAGE_S3_REGION",
    "aws_access_key_id": "SNAKEMAKE_STORAGE_S3_ACCESS_KEY",
    "aws_secret_access_key": "SNAKEMAKE_STORAGE_S3_SECRET_KEY",
    "aws_session_token": "SNAKEMAKE_STORAGE_S3_TOKEN",
}
_PACKAGES = ("boto3", "botocore", "s3transfer")
"""Whose errors are about the bucket; they have no common base class."""
_DEFAULT_REGION = "us-east-1"
_ADVICE = (
    "check the address, the endpoint and the credentials (SNAKEMAKE_STORAGE_S3_ACCESS_KEY and "
    "SNAKEMAKE_STORAGE_S3_SECRET_KEY in the environment; docs/storage.md)"
)

Stamp = tuple[int, str]
"""Size in bytes and ETag of an object."""


def is_bucket(folder: str | os.PathLike[str] | None) -> bool:
    """Returns whether a cohort folder is an address in a bucket (``s3://bucket/path``)."""
    return folder is not None and str(folder).startswith(SCHEME)


def expose_s3_settings(endpoint_url: str | None, region: str | None) -> None:
    """Hands what the command line says of the S3 service on to jobs; neither is a secret.

    Args:
        endpoint_url: Address of the service; None leaves the environment as it is.
        region: Region of the bucket.
    """
    for key, value in (("endpoint_url", endpoint_url), ("region_name", region)):
        if value:
            os.environ[_VARIABLES[key]] = value


class Bucket:
    """Files below an address in a bucket.

    Args:
        address: ``s3://bucket`` or ``s3://bucket/path``.

    Raises:
        GlomflowError: The address names no bucket, or boto3 is not installed.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.name, _, path = self.address.removeprefix(SCHEME).partition("/")
        self._prefix = f"{path}/" if path else ""
        if not self.name:
            raise GlomflowError(f"{address}: names no bucket; write s3://bucket/path")
        self._client = _client(address)
        self._shared: Path | None = None
        self._starts = False

    def listing(self, start: str = "") -> dict[str, Stamp]:
        """Lists the objects whose names start with ``start``; 1,000 of them cost one request.

        Args:
            start: Beginning of a name, relative to the address.

        Returns:
            Name, relative to the address, to size and ETag.

        Raises:
            GlomflowError: The bucket cannot be listed.
        """
        return {
            name: (int(entry["Size"]), str(entry["ETag"]).strip('"'))
            for name, entry in self._entries(start)
            if not name.endswith("/")
        }

    def times(self) -> dict[str, float]:
        """Lists when the objects below the address were stored.

        Returns:
            Name, relative to the address, to seconds since 1970; a name that ends in ``/`` is a folder.

        Raises:
            GlomflowError: The bucket cannot be listed.
        """
        return {name: entry["LastModified"].timestamp() for name, entry in self._entries("")}

    def _entries(self, start: str) -> Iterator[tuple[str, dict[str, Any]]]:
        with self._explained(self.address):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=self._prefix + start
            )
            for page in pages:
                for entry in page.get("Contents", ()):
                    name = entry["Key"].removeprefix(self._prefix)
                    if name:
                        yield name, entry

    def share_listing(self, path: Path, starts: bool) -> None:
        """Lets the jobs of a run use what the process that started it listed.

        Args:
            path: File that passes the listing on.
            starts: Whether this process starts the run: when it lists, it writes the file. Others read it,
                and list where there is none of this address.
        """
        self._shared, self._starts = path, starts

    @functools.cached_property
    def stamps(self) -> dict[str, Stamp]:
        """Every object below the address, listed once.

        Raises:
            GlomflowError: The bucket cannot be listed.
        """
        shared = None if self._starts else self._read_shared()
        if shared is not None:
            return shared
        listed = self.listing()
        if self._starts and self._shared is not None:
            objects = {"address": self.address, "objects": listed}
            # Jobs without it list the bucket themselves.
            with contextlib.suppress(OSError):
                write_text(self._shared, json.dumps(objects, separators=(",", ":")))
        return listed

    def _read_shared(self) -> dict[str, Stamp] | None:
        if self._shared is None or not self._shared.is_file():
            return None
        content = read_json(self._shared)
        if content["address"] != self.address:
            return None
        return {name: (size, tag) for name, (size, tag) in content["objects"].items()}

    def parts(self, path: str, *, sidecars: bool = True) -> dict[str, Stamp]:
        """Asks for the objects that belong to an image, itself first if it is one.

        Args:
            path: Path in the cohort.
            sidecars: Whether the small text files beside it count.

        Returns:
            The object, what lies below it if it is a folder, the folder of an MRXS, and sidecars. What a
            VMS names is only known once it is read.
        """
        stem = posixpath.splitext(path)[0]
        beside = _sidecars(path) if sidecars else []
        below = (f"{path}/", f"{stem}/") if path.lower().endswith(".mrxs") else (f"{path}/",)
        listed = self.listing(stem)
        found = {name: stamp for name, stamp in listed.items() if name in beside or name.startswith(below)}
        return {path: listed[path], **found} if path in listed else found

    def known_parts(self, path: str, *, sidecars: bool = True) -> dict[str, Stamp]:
        """The same from :attr:`stamps`, so that a single file costs no request of its own."""
        if path not in self.stamps or path.lower().endswith(".mrxs"):
            return self.parts(path, sidecars=sidecars)
        names = [path, *(_sidecars(path) if sidecars else [])]
        return {name: self.stamps[name] for name in names if name in self.stamps}

    def fetch(self, name: str, target: Path) -> None:
        """Downloads one object and renames it into place.

        Raises:
            GlomflowError: It cannot be downloaded.
        """
        with self._explained(f"{self.address}/{name}"), atomic_path(target) as temporary:
            self._client.download_file(self.name, self._prefix + name, str(temporary))

    def fetch_all(self, names: Iterable[str], folder: Path) -> None:
        """Downloads small objects, several at a time.

        Args:
            names: Their names, relative to the address.
            folder: Where they are put, under these names.

        Raises:
            GlomflowError: One cannot be downloaded.
        """
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda name: self.fetch(name, folder / name), names):
                pass

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in _PACKAGES:
                raise
            raise GlomflowError(f"{what}: {error}; {_ADVICE}") from error


class BucketFolder(PosixPath):
    """A scratch folder that stands for a cohort in a bucket: ``folder / path`` brings the file here.

    What belongs to an image comes with it. A path that the bucket does not hold stays a path at which
    there is nothing, as in a folder.
    """

    bucket: Bucket
    fetched: dict[str, int]

    @classmethod
    def at(cls, scratch: str | os.PathLike[str], bucket: Bucket) -> BucketFolder:
        """Returns the folder; files are put below ``scratch``."""
        folder = cls(scratch)
        folder.bucket = bucket
        folder.fetched = {}
        return folder

    def __truediv__(self, key: str | os.PathLike[str]) -> Path:  # type: ignore[override]
        """Brings what the bucket holds at ``key`` here and returns where it lies."""
        path, place = str(key), Path(os.fspath(self))
        if posixpath.isabs(path) or ".." in path.split("/"):
            raise GlomflowError(f"{path}: the path leaves the cohort folder {self.bucket.address}")
        if path not in self.fetched:
            self._fetch(path, place)
        return place / path

    def _fetch(self, path: str, place: Path) -> None:
        self.fetched.setdefault(path, 0)
        for name, (size, _) in self.bucket.parts(path).items():
            if not (place / name).exists():
                self.bucket.fetch(name, place / name)
                self.fetched[name] = size
        for name in named_in_vms(place / path):
            self._fetch(posixpath.join(posixpath.dirname(path), name), place)


@contextlib.contextmanager
def cohort_files(folder: str) -> Iterator[Path]:
    """Yields the cohort folder; of one in a bucket a scratch folder that files come to when named.

    The scratch folder lies in ``TMPDIR`` and goes when the block ends, however it ends.

    Args:
        folder: Path of the cohort folder or its address in a bucket.

    Yields:
        The folder that paths in the sheets are relative to.
    """
    if not is_bucket(folder):
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="glomflow-cohort-") as scratch:
        files = BucketFolder.at(scratch, Bucket(folder))
        yield files
        sizes = [size for size in files.fetched.values() if size]
        print(f"fetched {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB, from {folder}")


@functools.lru_cache(maxsize=4)
def bucket_at(address: str) -> Bucket:
    """Returns the bucket at an address; one process lists it once."""
    return Bucket(address)


def _sidecars(path: str) -> list[str]:
    stem = posixpath.splitext(path)[0]
    return [f"{base}{suffix}" for base in (path, stem) for suffix in SIDECAR_SUFFIXES]


def _client(address: str) -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError as error:
        raise GlomflowError(
            f"{address}: is in a bucket, and boto3 is not installed; docs/storage.md tells how"
        ) from error
    settings = {key: os.environ.get(name) or None for key, name in _VARIABLES.items()}
    settings["region_name"] = settings["region_name"] or os.environ.get("AWS_REGION") or _DEFAULT_REGION
    try:
        return boto3.client(
            "s3",
            config=Config(
                retries={"max_attempts": 5, "mode": "standard"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
            **settings,
        )
    except (BotoCoreError, ValueError) as error:
        raise GlomflowError(f"{address}: {error}; {_ADVICE}") from error
