"""A log on an Immutable server, over HTTP."""
from __future__ import annotations

import http.client
import json
import os
import random
import secrets
import ssl
import threading
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from .errors import AccessError, ConfigurationError, EventError, NotFoundError, QueryError, ServerError, UncertainError, UnknownVerdictError

MAX_ANSWER = 64 << 20  # bytes
PAGE = 1000  # entries
FIRST_PAUSE, MAX_PAUSE = 0.1, 5.0  # seconds

# Answers after which the same request may succeed a little later.
PASSING = {408, 429, 502, 503, 504}


class Server:
    """The log on a server. Each thread has a connection of its own."""

    def __init__(self, url: str, token: str, tenant: str, log: str, timeout: float, retry_for: float, ssl_context: ssl.SSLContext | None):
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.query or parts.fragment or parts.username:
            raise ConfigurationError(f"url {parts.scheme}://{parts.hostname}: want http://HOST or https://HOST, perhaps with a port and a path")
        if any(c in token for c in "\r\n\0 "):
            raise ConfigurationError("the token has a space or line break in it: was it read from a file with its newline?")
        self._scheme, self._host, self._port = parts.scheme, parts.hostname, port
        self._base = f"{parts.path.rstrip('/')}/api/v1/tenants/{quote(tenant, safe='')}/logs/{quote(log, safe='')}"
        self._token = token
        self._timeout, self._retry_for = timeout, retry_for
        self._ssl = ssl_context
        if self._scheme == "https" and ssl_context is None:
            self._ssl = ssl.create_default_context()
        self._threads = threading.local()
        self._lock = threading.Lock()
        self._connections: list[http.client.HTTPConnection] = []
        self._pause = time.sleep
        self._now = time.monotonic

    def append(self, event: bytes) -> dict[str, Any]:
        # Every event has a key, so that one whose answer was lost can be sent again and is written once.
        kept = json.loads(event)
        if "idempotencyKey" not in kept:
            event = event[:-1] + b',"idempotencyKey":"' + secrets.token_hex(16).encode() + b'"}'
        return json.loads(self._call("POST", "/entries", event, writes=True))

    def entries(self, text: str, limit: int, levels: list[str], since: str | None, until: str | None) -> list[dict[str, Any]]:
        """The newest entries, the newest first."""
        query = {"order": "desc"}
        for name, value in (("q", text), ("level", ",".join(levels)), ("since", since), ("until", until)):
            if value:
                query[name] = value
        found: list[dict[str, Any]] = []
        while len(found) < limit:
            query["limit"] = str(min(PAGE, limit - len(found)))
            page = json.loads(self._call("GET", "/entries?" + urlencode(query)))
            found += page["entries"]
            if not page["next"]:
                break
            query["cursor"] = page["next"]
        return found[:limit]

    def block(self, index: int) -> dict[str, Any]:
        return json.loads(self._call("GET", f"/entries/{index}/block"))

    def exists(self) -> bool:
        return True

    def stats(self) -> dict[str, Any]:
        return json.loads(self._call("GET", "/stats"))

    def verify(self, keys: list[str], checkpoints: list[str]) -> dict[str, Any]:
        body = json.dumps({"keys": keys, "checkpoints": checkpoints}).encode()
        job = json.loads(self._call("POST", "/verifications", body, repeatable=False))
        wait = 0.02
        while job["phase"] in ("queued", "running"):
            self._pause(wait)
            wait = min(wait * 2, 1.0)
            job = json.loads(self._call("GET", f"/verifications/{quote(job['id'], safe='')}"))
        report = job.get("report") or {"verdict": job.get("verdict"), "findings": job.get("findings", [])}
        if job["phase"] != "done" or report["verdict"] not in ("proven", "consistent", "refuted"):
            raise UnknownVerdictError(f"the verification is {job['phase']}, its verdict {report['verdict']}: {job.get('error', '')}", report)
        return report

    def close(self) -> None:
        with self._lock:
            connections, self._connections = self._connections, []
        self._threads = threading.local()
        for c in connections:
            c.close()

    def _connection(self) -> http.client.HTTPConnection:
        mine = getattr(self._threads, "connection", None)
        if mine is not None and mine[0] == os.getpid():
            return mine[1]
        if self._scheme == "https":
            c: http.client.HTTPConnection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._ssl)
        else:
            c = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        self._threads.connection = (os.getpid(), c)
        with self._lock:
            self._connections.append(c)
        return c

    def _call(self, method: str, path: str, body: bytes | None = None, writes: bool = False, repeatable: bool = True) -> bytes:
        """Send a request until it is answered or retry_for is over."""
        began = self._now()
        attempt, uncertain = 0, False
        while True:
            try:
                return self._attempt(method, path, body)
            except ServerError as e:
                again = (e.status in PASSING and (e.status != 429 or not e.code or e.retry_after is not None)) or (
                    e.status == 500 and e.code in ("", "internal")
                ) or e.status == 0 and not isinstance(e.__cause__, ssl.SSLError)
                reached = e.code in ("", "internal", "uncertain", "timeout", "bad-body") and (e.status == 0 or e.status == 408 or e.status >= 500)
                if isinstance(e.__cause__, (ConnectionRefusedError, ssl.SSLCertVerificationError)):
                    reached = False
                uncertain = uncertain or reached
                wait = min(FIRST_PAUSE * 2**attempt, MAX_PAUSE) * random.uniform(0.5, 1)
                wait = max(wait, e.retry_after or 0)
                attempt += 1
                if again and (repeatable or not reached) and self._now() + wait - began <= self._retry_for:
                    self._pause(wait)
                    continue
                if writes and uncertain:
                    raise UncertainError(f"{e}; the event may be in the log or not") from e
                raise

    def _attempt(self, method: str, path: str, body: bytes | None) -> bytes:
        connection = self._connection()
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._token:
            headers["Authorization"] = "Bearer " + self._token
        try:
            connection.request(method, self._base + path, body, headers)
            answer = connection.getresponse()
            data = answer.read(MAX_ANSWER + 1)
            if len(data) > MAX_ANSWER:
                raise http.client.HTTPException(f"the answer is longer than {MAX_ANSWER} bytes")
        except (OSError, http.client.HTTPException) as e:
            connection.close()  # the next request makes it again
            raise ServerError(f"{self._scheme}://{self._host}: {type(e).__name__}: {e}") from e
        if 200 <= answer.status < 300:
            return data
        raise problem(answer, data)


def problem(answer: http.client.HTTPResponse, data: bytes) -> Exception:
    """The error that an answer other than success is."""
    code, text = "", ""
    if answer.headers.get_content_type() == "application/problem+json":
        try:
            said = json.loads(data)
            code, text = str(said.get("code", "")), f"{said.get('title', '')}: {said.get('detail', '')}"
        except (ValueError, AttributeError):
            pass
    if 300 <= answer.status < 400:
        text = "it redirects, which is not followed: give the address of the log's own server"
    message = f"the server says {text or answer.reason} ({answer.status}{' ' + code if code else ''})"
    if code in ("bad-event", "bad-json", "key-conflict", "too-large"):
        return EventError(message)
    if code == "bad-query":
        return QueryError(message)
    if answer.status in (401, 403):
        return AccessError(message, answer.status, code)
    if answer.status == 404:
        return NotFoundError(message)
    return ServerError(message, answer.status, code, retry_after(answer.headers.get("Retry-After")))


def retry_after(value: str | None) -> float | None:
    """Seconds to wait, or None where nothing sensible was said."""
    if value is None:
        return None
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
