"""One file over HTTP with the standard library: resumed where it was cut off, checked by its size and its hash.

What has arrived lies in NAME.part; only a whole file with the right SHA-256 gets its name. A connection that breaks is
taken up again at the byte it broke at (an HTTP range), also by the next call after an interruption. A server that can't
do ranges sends the file again from the start.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

from lamer.common.errors import Missing
from lamer.envs.datasets.definition import Source
from lamer.envs.datasets.ledger import hash_file

log = logging.getLogger("lamer.data")

Progress = Callable[[str, int, int], None]
"""Called with a file's name, its bytes so far, and its size."""

_CHUNK = 1 << 18
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")
_WORTH_A_RETRY = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}
)


class Unusable(Exception):
    """An address that does not give the file, and why."""


class Answer(Protocol):
    """What is read of an HTTP response."""

    status: int
    headers: http.client.HTTPMessage

    def read(self, size: int) -> bytes:
        """At most so many bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Downloader:
    """Downloads sources. timeout: seconds without a byte. attempts: in a row that bring none; wait: seconds before the
    second of them, twice as many before each later one.
    """

    progress: Progress
    timeout: float = 30.0
    attempts: int = 4
    wait: float = 0.5

    def download(self, source: Source, target: Path) -> str:
        """Bring a source to the file `target`; the address that gave it.

        Raises:
            Missing: none of its addresses gave it; what has arrived of it stays beside `target` for the next call.
        """
        reasons: list[str] = []
        target.parent.mkdir(parents=True, exist_ok=True)
        for url in source.urls:
            try:
                self._from(url, source, target)
            except Unusable as reason:
                reasons.append(f"{urllib.parse.urlsplit(url).netloc}: {reason}")
                log.info("%s: %s", url, reason)
            else:
                return url
        raise Missing(f"{source.name} can't be fetched: {'; '.join(reasons)}")

    def _from(self, url: str, source: Source, target: Path) -> None:
        part = target.with_name(f"{target.name}.part")
        is_patched = self._complete(url, source, part)
        found = hash_file(part)
        if found != source.sha256 and is_patched:  # its pieces may be of different files
            part.unlink()
            self._complete(url, source, part)
            found = hash_file(part)
        if found != source.sha256:
            part.unlink()
            raise Unusable(f"what came has SHA-256 {found}, the official file {source.sha256}; it was removed")
        os.replace(part, target)

    def _complete(self, url: str, source: Source, part: Path) -> bool:
        """Ask until `part` is as long as the source; whether it was put together from several answers."""
        failures, is_patched, most = 0, False, 0
        while (have := _size(part)) < source.size:
            is_patched |= have > 0
            most = max(most, have)
            try:
                self._ask(url, source, part)
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                if _is_beyond_the_end(error):
                    part.unlink()
                failures = 1 if _size(part) > most else failures + 1
                problem = _problem(error)
                if failures >= self.attempts or not _is_worth_a_retry(error):
                    raise Unusable(problem) from error
                log.info("%s after %d of %d bytes: %s; trying again", url, _size(part), source.size, problem)
                time.sleep(self.wait * 2 ** (failures - 1))
        if have > source.size:
            part.unlink()
            raise Unusable(f"it is longer than the official file's {source.size} bytes")
        return is_patched

    def _ask(self, url: str, source: Source, part: Path) -> None:
        """One request: add to `part` until the answer ends."""
        have = _size(part)
        headers = {"User-Agent": "lamer", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=self.timeout) as answer:
            if answer.headers.get_content_type() == "text/html":
                raise Unusable("it answers with a web page and not the file (a sign-in, or a used-up quota)")
            is_continued = answer.status == HTTPStatus.PARTIAL_CONTENT
            if is_continued and not _begins_at(answer, have):
                part.unlink()
                raise ConnectionError(f"it answered with another range than the one from byte {have}")
            self._keep(answer, source, part, have if is_continued else 0)

    def _keep(self, answer: Answer, source: Source, part: Path, begin: int) -> None:
        """Write an answer to `part` from byte `begin` on.

        Raises:
            ConnectionError: it ends before the file does.
        """
        have = begin
        with part.open("ab" if begin else "wb") as file:
            while have <= source.size and (chunk := answer.read(_CHUNK)):
                file.write(chunk)
                have += len(chunk)
                self.progress(source.name, have, source.size)
        if have < source.size:
            raise ConnectionError(f"the connection ended after {have} of {source.size} bytes")


def _begins_at(answer: Answer, begin: int) -> bool:
    match = _RANGE.match(answer.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == begin


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_beyond_the_end(error: Exception) -> bool:
    """Whether the server has no byte where we wanted to go on."""
    return isinstance(error, urllib.error.HTTPError) and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE


def _is_worth_a_retry(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _WORTH_A_RETRY or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR
    return True


def _problem(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        reason = error.reason
        return f"can't be reached ({reason.strerror or reason})" if isinstance(reason, OSError) else str(reason)
    return str(error) or type(error).__name__
