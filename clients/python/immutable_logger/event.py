"""Events as JSON, in the form of the API."""
from __future__ import annotations

import json
import os
import socket
from datetime import date, datetime, timezone
from typing import Any
from uuid import UUID

from .errors import EventError

_hostname = socket.gethostname()


def _default(value: Any) -> str:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON; make it a string, number, list or dict")


def encode_event(
    level: str,
    message: str,
    metadata: dict[str, Any] | None,
    event_time: datetime | None,
    trace_id: str | None,
    span_id: str | None,
    idempotency_key: str | None,
) -> bytes:
    """One event as a line of JSON, without the newline."""
    if not isinstance(message, str):
        raise EventError(f"the message is a {type(message).__name__}, want a string")
    if metadata is None:
        metadata = {}
    elif not isinstance(metadata, dict):
        raise EventError(f"the metadata is a {type(metadata).__name__}, want a dict")
    event: dict[str, Any] = {"level": level, "message": message, "metadata": metadata, "hostname": _hostname, "pid": os.getpid()}
    if event_time is not None:
        if event_time.tzinfo is None:
            raise EventError("event_time has no zone: a time without one is nobody's")
        event["eventTime"] = event_time.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    for name, value in (("traceId", trace_id), ("spanId", span_id), ("idempotencyKey", idempotency_key)):
        if value is not None:
            event[name] = value
    try:
        return json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_default).encode()
    except (TypeError, ValueError, RecursionError) as e:
        raise EventError(f"the event has no form in JSON: {e}") from None
