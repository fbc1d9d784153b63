"""The columns of a sheet that say where files come from: ``url`` and ``sha256``."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from glomflow.cohort.sheet_file import Sheet

COLUMNS = ("url", "sha256")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


def check_addresses(sheet: Sheet) -> None:
    """Adds a problem for every address or digest of a sheet that cannot be used.

    Args:
        sheet: The sheet, with the columns ``url`` and ``sha256``.
    """
    columns = zip(*(sheet.frame[name] for name in ("row", *COLUMNS)), strict=True)
    for row, url, sha256 in columns:
        wrong = wrong_address(url, sha256)
        if wrong:
            column, advice = wrong
            sheet.add(int(row), column, {"url": url, "sha256": sha256}[column] or None, advice)


def wrong_address(url: str, sha256: str) -> tuple[str, str] | None:
    """Returns the column at fault and what to do, or None.

    Args:
        url: Address of a file; may be empty.
        sha256: Its digest; empty without an address.
    """
    if not url:
        advice = "the digest is checked when a file is fetched; fill column 'url' in or empty this cell"
        return ("sha256", advice) if sha256 else None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or not parts.path.strip("/"):
        return "url", "not the address of a file; write http://... or https://..."
    if parts.username or parts.password:
        return "url", "the address holds a user name or password; take it out (docs/storage.md)"
    if not sha256:
        return "sha256", "a file that is fetched needs its SHA-256; 'sha256sum FILE' prints it"
    if not _DIGEST.fullmatch(sha256):
        return "sha256", "not a SHA-256, which has 64 hexadecimal digits; 'sha256sum FILE' prints it"
    return None
