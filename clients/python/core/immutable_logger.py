"""`from core.immutable_logger import ImmutableLogger`, as programs of the earlier system spell it."""
from immutable_logger import *  # noqa: F403
from immutable_logger import __all__ as __all__
