"""A log in a directory, through the program `immutable`.

Entries are appended by one child process for each directory, which is started with the first entry and stays: it shares a write and
a sync among all threads that log at the same time. Reading and verifying are commands of their own, which need no lock.
"""
from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import tempfile
import threading
import warnings
import weakref
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from .errors import (
    BinaryNotFoundError,
    ConfigurationError,
    EventError,
    ImmutableError,
    LockedError,
    NotFoundError,
    QueryError,
    UncertainError,
    UnknownVerdictError,
)

MIN_ROTATE_SIZE = 64 * 1024
CLOSE_SECONDS = 60  # that a child gets to commit, seal and sign


def find_binary(binary: str | os.PathLike[str] | None) -> str:
    """The program's path."""
    wanted = str(binary or os.environ.get("IMMUTABLE_BINARY") or "immutable")
    found = shutil.which(wanted)
    if found is None:
        raise BinaryNotFoundError(
            f"the program {wanted} was not found: a log in a directory needs it. Install it (go install ./cmd/immutable), put it on "
            "the PATH or its path into IMMUTABLE_BINARY, or use a server (url=)"
        )
    return found


class Writer:
    """A child process that appends. Its lock guards everything but the reading of its answers."""

    def __init__(self, command: list[str], env: dict[str, str]):
        self.command = command
        self.env = env
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._sent = 0
        self._waiting: dict[int, Future] = {}
        self._errors: deque[str] = deque(maxlen=20)
        self._ended = False
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
        self._threads = [threading.Thread(target=self._read_answers, daemon=True), threading.Thread(target=self._read_errors, daemon=True)]
        for t in self._threads:
            t.start()

    def append(self, event: bytes) -> dict[str, Any] | None:
        """The receipt; None if the process had ended before it was given the event."""
        answer: Future = Future()
        with self._lock:
            if self._ended:
                return None
            self._sent += 1
            self._waiting[self._sent] = answer
            try:
                self._process.stdin.write(event + b"\n")
                self._process.stdin.flush()
            except OSError:
                pass  # its end is noticed where its answers are read
        return answer.result()

    def _read_answers(self) -> None:
        for line in self._process.stdout:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            number = found.pop("line", None)
            with self._lock:
                answer = self._waiting.pop(number, None)
            if answer is None:
                continue
            if "error" in found:
                answer.set_exception(EventError(found["error"]))
            else:
                answer.set_result(found)
        self._process.wait()
        self._threads[1].join()
        with self._lock:
            self._ended = True
            waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer.set_exception(self._failure())

    def _read_errors(self) -> None:
        for line in self._process.stderr:
            self._errors.append(line.decode("utf-8", "replace").rstrip())

    def _failure(self) -> ImmutableError:
        said = " ".join(self._errors) or f"it ended with {self._process.returncode}"
        if "has been writing to this log since" in said:
            return LockedError(f"{said} (several processes share a log through a server)")
        if "nothing was written" in said or self._process.returncode == 2 and "flag" in said:
            return ImmutableError(f"the event was not written: {said}")
        return UncertainError(f"the program that writes the log has ended, and the event may be in the log or not: {said}")

    @property
    def ended(self) -> bool:
        return self._ended

    def close(self) -> None:
        """Wait until everything is committed and the log is closed."""
        if self.owner != os.getpid():
            return  # a fork's copy: the parent's to close
        with self._lock:
            try:
                self._process.stdin.close()
            except OSError:
                pass
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            raise ImmutableError(f"the program that writes the log has not ended after {CLOSE_SECONDS} seconds") from None
        for t in self._threads:
            t.join()
        self._process.stdout.close()
        self._process.stderr.close()


class Writers:
    """The writers of this process, one for each directory, however many loggers it has."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Writer] = {}
        self._users: dict[str, int] = {}
        atexit.register(self.close_all)

    def use(self, key: str) -> None:
        """Say that there is one more logger of the directory."""
        with self._lock:
            self._users[key] = self._users.get(key, 0) + 1

    def leave(self, key: str) -> None:
        """Say that there is one logger less; the last one ends the writer."""
        with self._lock:
            self._users[key] -= 1
            if self._users[key] > 0:
                return
            del self._users[key]
            writer = self._open.pop(key, None)
        if writer is not None:
            writer.close()

    def get(self, key: str, command: list[str], env: dict[str, str]) -> Writer:
        """The directory's writer. Where it runs with other settings it is started anew: those of the last logger count."""
        with self._lock:
            writer = self._open.get(key)
            if writer is not None and (writer.ended or writer.owner != os.getpid() or writer.command != command or writer.env != env):
                del self._open[key]
                writer.close()
                writer = None
            if writer is None:
                writer = self._open[key] = Writer(command, env)
            return writer

    def close_all(self) -> None:
        with self._lock:
            writers, self._open = list(self._open.values()), {}
        for w in writers:
            w.close()


_writers = Writers()


class Directory:
    """The log in a directory."""

    def __init__(self, where: Path, blockchain: bool | None, rotate_size: int | None, binary: Any, state_dir: Any):
        self._dir = where
        self._binary = find_binary(binary)
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("IMMUTABLE_") or k in ("IMMUTABLE_STATE_DIR", "IMMUTABLE_ROTATE_SIZE", "IMMUTABLE_BLOCKCHAIN_ENABLED")}
        self._where = ["--dir", str(where)]
        if state_dir is not None:
            self._where += ["--state-dir", str(state_dir)]
        self._settings: list[str] = []
        if rotate_size is not None:
            if isinstance(rotate_size, bool) or not isinstance(rotate_size, int) or rotate_size <= 0:
                raise ConfigurationError(f"rotate_size {rotate_size!r}: want a number of bytes")
            if rotate_size < MIN_ROTATE_SIZE:
                warnings.warn(f"rotate_size {rotate_size} counts as {MIN_ROTATE_SIZE}, the least", stacklevel=3)
            self._settings += ["--rotate-size", str(max(rotate_size, MIN_ROTATE_SIZE))]
        if blockchain is not None:
            self._settings.append(f"--blockchain-enabled={str(bool(blockchain)).lower()}")
        self._key = os.path.realpath(where)
        self._closing: weakref.finalize | None = None
        self._lock = threading.Lock()

    def append(self, event: bytes) -> dict[str, Any]:
        with self._lock:
            if self._closing is None or not self._closing.alive:
                _writers.use(self._key)
                self._closing = weakref.finalize(self, _writers.leave, self._key)
                self._closing.atexit = False  # Writers sees to it
        command = [self._binary, "append", "--json", "--each", "--events", "--quiet", *self._where, *self._settings, "-"]
        while True:
            receipt = _writers.get(self._key, command, self._env).append(event)
            if receipt is not None:
                return receipt

    def close(self) -> None:
        with self._lock:
            if self._closing is not None:
                self._closing()

    def exists(self) -> bool:
        return (self._dir / "log.json").exists()

    def _run(self, command: str, *args: str) -> subprocess.CompletedProcess:
        return subprocess.run([self._binary, command, "--json", "--quiet", *self._where, *args], stdin=subprocess.DEVNULL, capture_output=True, env=self._env, check=False)

    def _answer(self, *args: str) -> bytes:
        done = self._run(*args)
        if done.returncode == 0:
            return done.stdout
        said = done.stderr.decode("utf-8", "replace").strip()
        if not self.exists():
            raise NotFoundError(f"there is no log in {self._dir}: {said}")
        if "not found" in said or "has no entry" in said:
            raise NotFoundError(said)
        raise ImmutableError(said or f"the program ended with {done.returncode}")

    def entries(self, text: str, limit: int, levels: list[str], since: str | None, until: str | None) -> list[dict[str, Any]]:
        """The newest entries, the newest first."""
        if not self.exists():
            return []
        args = ["read", "--reverse", "--limit", str(limit)]
        for flag, value in (("--level", ",".join(levels)), ("--since", since), ("--until", until)):
            if value:
                args += [flag, value]
        try:
            return [json.loads(line) for line in self._answer(*args, "--", text).splitlines()]
        except ImmutableError as e:
            if text and "^" in str(e):
                raise QueryError(str(e)) from None
            raise

    def block(self, index: int) -> dict[str, Any]:
        return json.loads(self._answer("get", str(index), "--block"))

    def stats(self) -> dict[str, Any]:
        if not self.exists():
            return {"totalEntries": 0, "fileSize": 0, "blockchainLength": 0, "levels": {}, "verified": None, "oldestEntry": None, "newestEntry": None}
        return json.loads(self._answer("stats"))

    def verify(self, keys: list[str], checkpoints: list[str]) -> dict[str, Any]:
        if not self.exists():
            raise NotFoundError(f"there is no log in {self._dir}")
        args = ["verify"]
        for key in keys:
            args += ["--key", key]
        with tempfile.TemporaryDirectory() as kept:
            for i, note in enumerate(checkpoints):
                name = Path(kept, str(i))
                name.write_text(note, encoding="utf-8", newline="")
                args += ["--checkpoint", str(name)]
            done = self._run(*args)
        said = done.stderr.decode("utf-8", "replace").strip()
        try:
            report = json.loads(done.stdout)
        except ValueError:
            raise UnknownVerdictError(said or f"the verification ended with {done.returncode}") from None
        if done.returncode not in (0, 1) or report.get("verdict") not in ("proven", "consistent", "refuted"):
            raise UnknownVerdictError(f"the verdict is {report.get('verdict')}: it could not be told whether the log is intact. {said}".strip(), report)
        return report
