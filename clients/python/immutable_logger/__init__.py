"""Append to a tamper-evident log, read it and verify it: in a directory, or on an Immutable server.

    from immutable_logger import ImmutableLogger

    logger = ImmutableLogger("./logs")
    logger.audit("User login", {"userId": "user_123", "ip": "192.168.1.100"})
    assert logger.verify()
"""
from .errors import (
    AccessError,
    BinaryNotFoundError,
    ConfigurationError,
    EncryptionNotAvailableError,
    EventError,
    ImmutableError,
    LockedError,
    NotFoundError,
    QueryError,
    ServerError,
    UncertainError,
    UnknownVerdictError,
)
from .logger import LEVELS, ImmutableLogger

__all__ = [
    "LEVELS",
    "AccessError",
    "BinaryNotFoundError",
    "ConfigurationError",
    "EncryptionNotAvailableError",
    "EventError",
    "ImmutableError",
    "ImmutableLogger",
    "LockedError",
    "NotFoundError",
    "QueryError",
    "ServerError",
    "UncertainError",
    "UnknownVerdictError",
]
