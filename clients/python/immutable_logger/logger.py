"""ImmutableLogger, the same for both kinds of log."""
from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, overload

from .errors import ConfigurationError, EncryptionNotAvailableError
from .event import encode_event
from .local import Directory
from .server import Server

LEVELS = ("INFO", "WARN", "ERROR", "CRITICAL", "AUDIT", "SECURITY", "REVENUE", "SYSTEM")

Moment = str | date | datetime


class ImmutableLogger:
    """A log in a directory (log_dir), or on a server (url, token).

    Everything that a method logs is on the disk when the method returns. One logger may be used by any number of threads. Close
    it, or use it in a with statement; at the end of the program it is closed by itself.

    log_dir             the directory; IMMUTABLE_LOG_DIR, else ./logs. It is made with the first entry. It needs the program
                        `immutable`: IMMUTABLE_BINARY, or on the PATH
    enable_blockchain   False: a new log in a directory gets no keys and signs nothing. The hash chain stays
    enable_encryption   there is no encryption yet: True is an error
    rotate_size         bytes after which a directory's open segment is sealed; at least 65,536, smaller ones count as that
    url, token          the server's address, and an API token (or IMMUTABLE_TOKEN). tenant and log name the log. There,
                        enable_blockchain and rotate_size are the server's to set, and have no effect
    state_dir           of a directory: where this host keeps keys and heads, if not in the usual place
    timeout, retry_for  seconds for one exchange with a server, and for trying again while it is away
    ssl_context         for https: own roots, or a client certificate
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        *,
        url: str | None = None,
        token: str | None = None,
        tenant: str = "default",
        log: str = "main",
        enable_blockchain: bool | None = None,
        enable_encryption: bool = False,
        rotate_size: int | None = None,
        binary: str | os.PathLike[str] | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        timeout: float = 60.0,
        retry_for: float = 30.0,
        ssl_context: ssl.SSLContext | None = None,
    ):
        if enable_encryption:
            raise EncryptionNotAvailableError(
                "enable_encryption=True: this version stores entries readable, and does not pretend otherwise; encrypt "
                "what is secret before you log it, or leave it out"
            )
        self.enable_encryption = False
        self.enable_blockchain = enable_blockchain is not False
        self.rotate_size = rotate_size or 100 * 1024 * 1024
        #: The report of the last verify(), for who wants to know more than yes or no.
        self.last_report: dict[str, Any] | None = None
        self._backend: Directory | Server
        if url is None:
            where = Path(log_dir or os.environ.get("IMMUTABLE_LOG_DIR") or "./logs")
            self.log_dir: Path | None = where
            self.log_file: Path | None = where / "immutable.log"
            self._backend = Directory(where, enable_blockchain, rotate_size, binary, state_dir)
            return
        if log_dir is not None:
            raise ConfigurationError("log_dir and url: a log is in a directory or on a server, not both")
        self.log_dir = self.log_file = None
        self._backend = Server(url, token or os.environ.get("IMMUTABLE_TOKEN", ""), tenant, log, timeout, retry_for, ssl_context)

    def log(
        self,
        level: str,
        message: str,
        metadata: dict[str, Any] | None = None,
        *,
        event_time: datetime | None = None,
        trace_id: str | None = None,
        span_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Log one entry and return its receipt: success, index, id, hash, leaf, timestamp.

        With an idempotency_key that the log has seen in the last 24 hours nothing is written, and the receipt is the first one.
        """
        name = str(level).upper()
        if name not in LEVELS:
            raise ConfigurationError(f"level {level!r}: there are {', '.join(LEVELS)}")
        event = encode_event(name, message, metadata, event_time, trace_id, span_id, idempotency_key)
        receipt = self._backend.append(event)
        receipt["timestamp"] = nine_digits(receipt["timestamp"])
        return {"success": True, **receipt}

    def info(self, message: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
        """Log general information."""
        return self.log("INFO", message, metadata)

    def warn(self, message: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
        """Log a warning."""
        return self.log("WARN", message, metadata)

    warning = warn

    def error(self, message: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
        """Log an error."""
        return self.log("ERROR", message, metadata)

    def critical(self, message: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
        """Log a critical error."""
        return self.log("CRITICAL", message, metadata)

    def audit(self, message: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
        """Log what somebody did."""
        return self.log("AUDIT", message, metadata)

    def security(self, message: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
        """Log a security event."""
        return self.log("SECURITY", message, metadata)

    def revenue(self, message: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
        """Log a movement of money."""
        return self.log("REVENUE", message, metadata)

    def system(self, message: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
        """Log what the system did."""
        return self.log("SYSTEM", message, metadata)

    def read(
        self,
        limit: int = 100,
        level: str | Iterable[str] | None = None,
        start_date: Moment | None = None,
        end_date: Moment | None = None,
    ) -> list[dict[str, Any]]:
        """The newest entries, at most limit, the oldest of them first.

        start_date and end_date are both included: a date is its whole day in UTC, a time without a zone is UTC.
        """
        return self._select("", limit, level, start_date, end_date)

    def search(
        self,
        query: str,
        level: str | Iterable[str] | None = None,
        limit: int = 10000,
        start_date: Moment | None = None,
        end_date: Moment | None = None,
    ) -> list[dict[str, Any]]:
        """The newest entries with this text, in any case, in the message, in a value of the metadata, in the level's name, or as
        the name of a member of the metadata. The oldest of them comes first. query() takes the query language."""
        return self._select(text_query(query), limit, level, start_date, end_date)

    def query(
        self,
        query: str,
        level: str | Iterable[str] | None = None,
        limit: int = 10000,
        start_date: Moment | None = None,
        end_date: Moment | None = None,
    ) -> list[dict[str, Any]]:
        """The newest entries that a query in the language of docs/search.md selects, such as `amount:>=1000 NOT refund*`."""
        return self._select(query, limit, level, start_date, end_date)

    def _select(self, text: str, limit: int, level: Any, start: Moment | None, end: Moment | None) -> list[dict[str, Any]]:
        if limit < 0:
            raise ConfigurationError(f"limit {limit}: at least 0")
        if limit == 0:
            return []
        since = None if start is None else bound(start, end=False)
        until = None if end is None else bound(end, end=True)
        found = self._backend.entries(text, limit, level_list(level), since, until)
        found.reverse()
        return found

    def verify(self, keys: Iterable[str] = (), checkpoints: Iterable[str] = ()) -> bool:
        """Read the whole log again and check everything: True if it is intact, False if it was changed.

        keys are verifier keys that you know from elsewhere, checkpoints signed notes that you kept: what they cover cannot have been
        rewritten by anybody. What could not be told is neither: UnknownVerdictError. last_report has the whole report. On a
        server it is the server that verifies.
        """
        self.last_report = None
        report = self._backend.verify(list(keys), list(checkpoints))
        self.last_report = report
        return report["verdict"] != "refuted"

    def stats(self, verify: bool = True) -> dict[str, Any]:
        """Counts and sizes: totalEntries, fileSize, blockchainLength, levels, verified, oldestEntry, newestEntry and more.

        verified is what verify() says now; with verify=False what the last one said, None if there was none. lastVerified is the
        last one with its size and time.
        """
        verified = None
        if verify and self._backend.exists():
            verified = self.verify()
        found = self._backend.stats()
        last = found.get("verified")
        found["lastVerified"] = last
        if not verify and last:
            verified = {"proven": True, "consistent": True, "refuted": False}.get(last["verdict"])
        found["verified"] = verified
        return found

    @property
    def chain(self) -> Chain:
        """The blocks: index, timestamp, data, hash, previousHash. They are read from the log when they are looked at."""
        return Chain(self._backend)

    def close(self) -> None:
        """Finish what is under way. Logging again opens the log again."""
        self._backend.close()

    def __enter__(self) -> ImmutableLogger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Chain(Sequence):
    """The blocks of a log. Each is a copy: changing it changes nothing in the log."""

    def __init__(self, backend: Directory | Server):
        self._backend = backend

    def __len__(self) -> int:
        return self._backend.stats()["blockchainLength"]

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self._backend.block(i) for i in range(*index.indices(len(self)))]
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"block {index} of {size}")
        return self._backend.block(index % size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self._backend.block(i) for i in range(len(self)))


def level_list(level: str | Iterable[str] | None) -> list[str]:
    """The levels that are asked for; none means all."""
    if level is None:
        return []
    names = [n.upper() for n in ([level] if isinstance(level, str) else level)]
    for n in names:
        if n not in LEVELS:
            raise ConfigurationError(f"level {n!r}: there are {', '.join(LEVELS)}")
    return names


def quoted(text: str) -> str:
    """A string of the query language."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'


def text_query(text: str) -> str:
    """A text that is looked for as it is, as a query."""
    if text == "":
        return ""
    parts = [f"~{quoted(text)}"]
    parts += [f"level:{name}" for name in LEVELS if text.upper() in name]
    parts.append(f"exists:metadata.{quoted(text)}")
    return "(" + " OR ".join(parts) + ")"


def nine_digits(timestamp: str) -> str:
    """The time as it stands in the entry, where a receipt leaves out zeros at the end."""
    second, _, fraction = timestamp.removesuffix("Z").partition(".")
    return f"{second}.{fraction.ljust(9, '0')}Z"


MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?\s*([Zz]|[+-]\d\d:?\d\d)?)?")


def bound(when: Moment, end: bool) -> str:
    """RFC 3339 for a bound: the beginning is included, the end is not, so an end is moved behind what was meant."""
    text = when.isoformat() if isinstance(when, date) else when.strip()
    m = MOMENT.fullmatch(text)
    if m is None:
        raise ConfigurationError(f"time {text!r}: want a date such as 2026-01-31, or a time such as 2026-01-31T23:59:59Z")
    day, minute, second, fraction, zone = m.groups()
    zone = "+00:00" if zone in (None, "Z", "z") else zone
    try:
        moment = datetime.fromisoformat(f"{day}T{minute or '00:00'}:{second or '00'}{zone}").astimezone(timezone.utc)
    except (ValueError, OverflowError) as e:
        raise ConfigurationError(f"time {text!r}: {e}") from None
    nanos = int((fraction or "").ljust(9, "0"))
    if end and minute is None:
        moment += timedelta(days=1)
    elif end and second is None:
        moment += timedelta(minutes=1)
    elif end:
        nanos += 1
    moment += timedelta(seconds=nanos // 10**9)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanos % 10**9:09d}Z"
