"""What can go wrong. Every error of this package is an ImmutableError."""
from __future__ import annotations


class ImmutableError(Exception):
    """Anything that this package reports."""


class ConfigurationError(ImmutableError, ValueError):
    """The arguments of ImmutableLogger, or of a call, do not go together."""


class EncryptionNotAvailableError(ImmutableError, NotImplementedError):
    """enable_encryption=True: entries would be stored readable, so it is refused rather than ignored."""


class BinaryNotFoundError(ImmutableError, FileNotFoundError):
    """A log in a directory needs the program `immutable`, and it was not found."""


class EventError(ImmutableError, ValueError):
    """The log does not take this event. Nothing was written."""


class QueryError(ImmutableError, ValueError):
    """A mistake in a query."""


class NotFoundError(ImmutableError, LookupError):
    """There is no such log, entry or tenant, or the token may not know of it."""


class LockedError(ImmutableError):
    """Another process writes to this directory. Several processes share a log through a server."""


class UncertainError(ImmutableError):
    """The event may be in the log or not. Log it again with the same idempotency_key: it is written once."""


class UnknownVerdictError(ImmutableError):
    """The verification could not tell whether the log is intact, or could not be carried out."""

    def __init__(self, message: str, report: dict | None = None):
        super().__init__(message)
        self.report = report


class ServerError(ImmutableError):
    """The server answered with a problem, or could not be reached (status 0)."""

    def __init__(self, message: str, status: int = 0, code: str = "", retry_after: float | None = None):
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after


class AccessError(ServerError, PermissionError):
    """There is no valid token, or its role does not allow this."""
