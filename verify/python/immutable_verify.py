#!/usr/bin/env python3
"""Checks a log directory of format immutable/1 and says refuted, unknown, proven or consistent.

Written from docs/format.md and the C2SP signed-note rules alone, apart from the Go program, so that
an error in one of the two shows as a difference. Python 3.11, standard library only; the one program
it starts is `zstd -dc`. It opens files for reading only and takes no lock.

Reading order for an auditor: Verifier.run first, then the methods that it calls; the rules for a single
entry, note or archive are in immutable_format.py.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import stat
import sys
from dataclasses import dataclass

from immutable_format import (
    At, CONTROL, CannotRun, DECIMAL, Decoder, GROUP, IndexBuilder, MAX_BATCH, MAX_BATCH_ENTRIES, MAX_LINE,
    MAX_NOTE, MAX_PENDING, Position, Refuse, SEARCH_PAGE, archive_frames, b64, check_timestamp, commit_line,
    history_notes, kept_lines, leaves_header, parse_entry, parse_producer_key, parse_vkey, segment_line, sha256, show, unbase64)
from immutable_bundle import MAX_FILE, verify_bundle
from immutable_keys import Chain, parse_log_keys

MAX_FINDINGS = 1_000   # more are counted, not kept
DERIVED = " (derived file: the entries themselves stand, `immutable rebuild` makes it again)"
DIR_FILES = ("log.json", "lock", "immutable.log", "chain", "checkpoint", "checkpoints", "epochs", "cosigned", "reserve")
DIR_DIRS = ("pending", "archive", "index", "tree", "quarantine", "next", "evidence", "retired")
MAX_EPOCHS_BYTES = 1 << 30   # some ten thousand years of days are below



def torn_from(rest, want, offset):
    """Is rest, at offset in its file, what a power cut may leave of want: cut short, or zeros where a sector was not written?"""
    if len(rest) > len(want) or rest == want:
        return False
    for i, (got, expected) in enumerate(zip(rest, want)):
        if got != expected:
            end = min(len(rest), (offset + i) // 512 * 512 + 512 - offset)
            if any(rest[i:end]):
                return False
    return True


@dataclass(frozen=True)
class Finding:
    file: str
    offset: int | None
    index: int | None
    what: str
    got: str
    want: str


@dataclass(frozen=True)
class Head:
    path: str
    vkey: str
    log: str
    inode: int
    size: int
    root: bytes
    kept: int
    clean: bool


@dataclass(frozen=True)
class Target:
    """A root that the entries must have at a size."""
    size: int
    root: bytes
    file: str
    offset: int | None


class Producer:
    """What one producer's key signed."""

    def __init__(self):
        self.key, self.counts, self.counters, self.bad = None, False, {}, []

    def cut(self, size):
        """Forgets entries at and above size, which an incomplete batch held."""
        self.counters = {counter: index for counter, index in self.counters.items() if index < size}
        self.bad = [index for index in self.bad if index < size]

    def missing(self):
        """The ranges of counters that are in no signed entry, below the highest that is."""
        ranges, previous = [], 0
        for counter in sorted(self.counters):
            if counter > previous + 1:
                ranges.append(f"{previous + 1}-{counter - 1}")
            previous = counter
        return ", ".join(ranges)


class Verifier:
    def __init__(self, directory, state_dir=None, pins=(), evidence=(), indexes=False, cold=None):
        self.digests = {}
        self.cold, self.retention, self.kept, self.twin = cold, [], {}, None
        self.dir, self.state_dir, self.pins, self.evidence, self.indexes = directory, state_dir, pins, evidence, indexes
        self.findings, self.notes, self.suppressed, self.unknowns = [], [], 0, 0
        self.origin, self.keys, self.chain, self.head, self.stopped = None, [], None, None, False
        self.unclosed, self.epoch_entries, self.anchors = [], [], []
        self.producers, self.unsigned = {}, 0
        self.final, self.checkpoint, self.last_kept, self.history_size = Position(), None, None, 0
        self.targets, self.newest, self.recoveries, self.other_types = [], None, [], {}
        self.tree, self.tree_bad, self.overlap, self.overlap_from = {}, set(), {}, ""
        self.opened, self.given, self.pinned, self.stamps, self.kept_sizes = [], [], False, [], set()

    # Results

    def find(self, file, offset, index, what, got="", want=""):
        self.add(Finding(show(file, 4096), offset, index, what, show(got), show(want)))

    def add(self, finding):
        if len(self.findings) >= MAX_FINDINGS:
            self.suppressed += 1
        elif finding not in self.findings[-50:]:
            self.findings.append(finding)

    def refused(self, file, offset, index, refuse, suffix=""):
        self.add(Finding(file, offset, index, refuse.what + suffix, refuse.got, refuse.want))

    def note(self, text):
        text = show(text, 4096)
        if text not in self.notes:
            self.notes.append(text)

    def unknown(self, text):
        self.unknowns += 1
        self.note("could not tell: " + text)

    def crash_leftover(self, file, offset, index, what, got="", want=""):
        """What a crash may leave: a finding after a clean close, a note after an unclean one, else unknown."""
        if self.head is None:
            self.unknown(f"{file}: {what}; a crash may leave this, and no head says whether there was one")
        elif self.head.clean:
            self.find(file, offset, index, what, got, want)
        else:
            self.note(f"{file}: {what}; the log was not closed cleanly, recovery will see to it")

    def verdict(self):
        if self.findings:
            return "refuted"
        if self.unknowns:
            return "unknown"
        return "proven" if self.head or self.basis() and (self.covered() or not self.final.size) else "consistent"

    def covered(self):
        """Entries below are covered by a key or checkpoint from outside: one of size 0 agrees with any entries."""
        return max([self.newest.size if self.pinned and self.newest else 0, *self.given])

    def basis(self):
        """What from outside the directory was compared with it."""
        return [name for name, given in (("head", self.head), ("key", self.pinned), ("checkpoint", self.evidence)) if given]

    def report(self):
        notes = list(self.notes)
        if self.suppressed:
            notes.append(f"{self.suppressed} more findings were not kept")
        return {"verdict": self.verdict(), "origin": self.origin, "size": self.final.size, "root": b64(self.final.root()),
                "basis": self.basis(), "findings": [vars(finding) for finding in self.findings], "notes": notes}

    # Files

    def path(self, name):
        return os.path.join(self.dir, *name.split("/"))

    def open(self, name, required=True, suffix="", path=None):
        """An open regular file or None, which was reported. It is the log's, unless a path says where else."""
        path = path or self.path(name)
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                self.find(name, None, None, "not a regular file", "another kind of file", "a regular file")
                return None
            f = open(path, "rb")
        except FileNotFoundError:
            if required:
                self.find(name, None, None, "missing" + suffix, "no file", "a file")
            return None
        except OSError as error:
            self.unknown(f"{name} could not be read: {error.strerror}")
            return None
        self.opened.append(f)
        return f

    def read(self, name, limit, required=True, suffix=""):
        f = self.open(name, required, suffix)
        if f is None:
            return None
        try:
            data = f.read(limit + 1)
        except OSError as error:
            self.unknown(f"{name} could not be read: {error.strerror}")
            return None
        finally:
            f.close()
        if len(data) > limit:
            self.find(name, limit, None, "file is too long", f"more than {limit} bytes", f"at most {limit}")
            return None
        return data

    def names(self, folder):
        try:
            if folder and not stat.S_ISDIR(os.lstat(self.path(folder)).st_mode):
                raise NotADirectoryError
            with os.scandir(self.path(folder) if folder else self.dir) as entries:
                return sorted(entry.name for entry in entries)
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            self.find(folder, None, None, "not a directory", "another kind of file", "a directory")
        except OSError as error:
            self.unknown(f"{folder} could not be read: {error.strerror}")
        return []

    def segments(self, folder, pattern):
        """{name of file: first} of a folder in which unknown names are refuted."""
        result = {}
        for name in self.names(folder):
            match = re.fullmatch(r"([0-9]{20})" + pattern, name)
            if match and int(match[1]) % GROUP == 0:
                result[f"{folder}/{name}"] = int(match[1])
            else:
                self.find(f"{folder}/{name}", None, None, "unknown name", name, "20 digits, a multiple of 256, and the ending")
        return result

    # Identity and head

    def identity(self):
        data = self.read("log.json", MAX_NOTE)
        if data is None:
            return False
        try:
            match = re.fullmatch(rb'\{"format":"immutable/1","origin":"([!#-*,-\[\]-~]{1,255})","created":"([^"\\]*)",'
                                 rb'"vkeys":\[((?:"[^"\\]*"(?:,"[^"\\]*")*)?)\]\}\n', data)
            if not match or not data.isascii():
                raise Refuse("log.json is not as the document shows it", data, '{"format":"immutable/1","origin":…}')
            origin = match[1].decode()
            if origin.startswith("immutable/"):
                raise Refuse("origin begins with immutable/", origin, "another beginning")
            check_timestamp(match[2].decode())
            vkeys = match[3].decode()[1:-1].split('","') if match[3] else []
            self.keys = parse_log_keys(vkeys, origin)
        except Refuse as refuse:
            self.refused("log.json", 0, None, refuse)
            return False
        self.origin, self.log_hash = origin, sha256(data).hex()
        self.chain = Chain(origin, self.keys)
        return True

    def read_head(self):
        """(bytes, Head) or None. A head that is there and cannot be used is reported."""
        if self.state_dir is None:
            return None
        path = os.path.join(self.state_dir, sha256(self.origin.encode()).hex(), "head")
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                self.find(path, None, None, "not a regular file", "another kind of file", "a regular file")
                return None
            with open(path, "rb") as f:
                data = f.read(MAX_NOTE)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self.unknown(f"{path} could not be read: {error.strerror}")
            return None
        match = re.fullmatch(r'\{"origin":"([^"\\]*)","vkey":"([^"\\]*)","log":"([0-9a-f]{64})","inode":' + DECIMAL
                             + r',"size":' + DECIMAL + r',"root":"([^"\\]*)","kept":' + DECIMAL
                             + r',"clean":(true|false)\}\n', data.decode("latin-1"))
        try:
            if not match:
                raise Refuse("head is not as the document shows it", data, '{"origin":…,"clean":…}')
            origin, vkey, log, inode, size, root, kept, clean = match.groups()
            if origin != self.origin:
                raise Refuse("head of another origin", origin, self.origin)
            return data, Head(path, vkey, log, int(inode), int(size), unbase64(root, 32), int(kept), clean == "true")
        except Refuse as refuse:
            self.refused(path, 0, None, refuse)
            return None

    def snapshot(self):
        """Opens and measures everything in an order that a writer at work cannot contradict.

        immutable.log before pending before archive before index, because segments move that way; then the
        signed values, then the tree, which covers them, then the length of immutable.log, which covers the tree.
        False: immutable.log was replaced meanwhile, start again.
        """
        self.log = self.open("immutable.log")
        self.pending = {}
        for name, first in self.segments("pending", r"\.jsonl").items():
            f = self.open(name, required=False)
            if f is not None:
                self.pending[name] = (first, f, os.fstat(f.fileno()).st_size)
        self.archives = self.segments("archive", r"\.jsonl\.zst")
        self.retired = self.segments("retired", r"\.leaves")
        self.index_files = self.segments("index", r"\.(?:idx|sdx|seal)")
        for _ in range(20):
            self.history = self.open("checkpoints")
            self.history_size = os.fstat(self.history.fileno()).st_size if self.history else 0
            note, head = self.read("checkpoint", MAX_NOTE), self.read_head()
            self.epochs = self.read("epochs", MAX_EPOCHS_BYTES, required=False)
            after = os.stat(self.path("checkpoints")).st_size if self.history else 0
            if (note, head, after) == (self.read("checkpoint", MAX_NOTE), self.read_head(), self.history_size):
                break
        self.cosigned = self.read("cosigned", MAX_NOTE, required=False)
        self.checkpoint_note, self.head = note, head[1] if head else None
        for name in self.names("tree"):
            if re.fullmatch(r"[1-7]", name):
                self.open_tree("tree/" + name, int(name))
            else:
                self.find("tree/" + name, None, None, "unknown name", name, "1 to 7")
        self.open_tree("chain", 0)
        if self.log is None:
            return True
        seen = os.fstat(self.log.fileno())
        self.log_size = seen.st_size
        try:
            now = os.stat(self.path("immutable.log"))
        except FileNotFoundError:
            return False
        return (now.st_dev, now.st_ino) == (seen.st_dev, seen.st_ino)

    def open_tree(self, name, level):
        f = self.open(name, required=False)
        if f is not None:
            self.tree[level] = (f, os.fstat(f.fileno()).st_size)

    # Notes

    def read_notes(self):
        self.read_epochs()
        self.read_history()
        self.read_evidence()
        self.check_pins()
        if self.checkpoint_note is not None:
            try:
                self.checkpoint = self.chain.open(self.checkpoint_note)
                self.targets.append(Target(self.checkpoint.size, self.checkpoint.root, "checkpoint", None))
            except Refuse as refuse:
                self.refused("checkpoint", 0, None, refuse)
        last, now = self.last_kept, self.checkpoint
        if last and now:
            if now.size == last.size and now.note != last.note:
                self.find("checkpoint", None, None, "differs from the last of checkpoints", now.note, last.note)
            if now.size < last.size:
                self.crash_leftover("checkpoint", None, None, "older than the last of checkpoints", now.size, last.size)
        self.newest = max((c for c in (last, now) if c), key=lambda c: c.size, default=None)
        for path, data in self.evidence:
            try:
                earlier = self.chain.open(data)
                self.given.append(earlier.size)
                self.targets.append(Target(earlier.size, earlier.root, path, None))
            except Refuse as refuse:
                self.refused(path, 0, None, refuse)
        if self.head:
            self.targets.append(Target(self.head.size, self.head.root, self.head.path, None))
        self.targets.sort(key=lambda target: target.size)

    def read_history(self):
        if self.history is None:
            return
        self.kept_sizes, self.unclosed = set(), self.chain.epochs[1:]
        kept_is_boundary = self.head is None or self.head.kept == 0
        bad, good_end = [], 0  # what did not open since the last note that did, and where that ended
        for offset, note, data in history_notes(self.history, self.history_size):
            try:
                if note is None:
                    raise Refuse("is not a note followed by an empty line", data, "a whole note")
                now = self.chain.open(note)
            except Refuse as refuse:
                bad.append((offset, refuse))
                continue
            self.history_damage(bad)
            bad = []
            try:
                if self.last_kept and now.size <= self.last_kept.size:
                    raise Refuse("sizes do not increase", now.size, f"more than {self.last_kept.size}")
                if offset == 0 and now.size != 0:
                    raise Refuse("first checkpoint's size", now.size, 0)
                self.last_kept = now
                self.targets.append(Target(now.size, now.root, "checkpoints", offset))
                self.kept_sizes.add(now.size)
                if self.unclosed and now.size > self.unclosed[0].entry:
                    epoch = self.unclosed.pop(0)
                    if now.note != epoch.closing:
                        raise Refuse(f"the first checkpoint after the entry of epoch {epoch.number} is not the closing one of epochs",
                                     now.note, epoch.closing)
            except Refuse as refuse:
                self.refused("checkpoints", offset, None, refuse)
            good_end = offset + len(note) + 1
            if self.head and self.head.kept == good_end:
                kept_is_boundary = True
        if bad and self.is_torn(good_end):
            self.crash_leftover("checkpoints", good_end, None, "ends within a note", bad[0][1].got, "a whole note")
        else:
            self.history_damage(bad)
        for epoch in self.unclosed:
            self.find("epochs", None, epoch.entry, f"closing checkpoint before epoch {epoch.number} is not in checkpoints", "no such note", epoch.closing)
        if self.last_kept is None and not self.findings:
            self.find("checkpoints", 0, None, "has no checkpoint", "none", "one of size 0 first")
        if self.head and self.head.kept > self.history_size:
            self.find("checkpoints", self.history_size, None, "shorter than the head says", self.history_size, self.head.kept)
        elif not kept_is_boundary:
            self.find("checkpoints", self.head.kept, None, "the head's kept is not the end of a checkpoint", self.head.kept, "an end")

    def read_epochs(self):
        """Follows the chain of keys as far as `epochs` shows it. The entries are compared with it at the end."""
        if self.epochs is None:
            return
        *lines, rest = self.epochs.split(b"\n")
        offset = 0
        for line in lines:
            try:
                if not self.keys:
                    raise Refuse("epochs in a log without keys", line, "no such file")
                self.chain.add(line)
            except Refuse as refuse:
                return self.refused("epochs", offset, None, refuse, DERIVED)
            offset += len(line) + 1
        if rest:
            self.crash_leftover("epochs", offset, None, "does not end with a newline" + DERIVED, rest, "a whole line")

    def read_evidence(self):
        """Cosigned checkpoints and time stamps: that they are of this log. Whose cosignatures and stamps count, this program does not know."""
        notes = [("cosigned", None, self.cosigned)] if self.cosigned is not None else []
        stamps = 0
        for name in self.names("evidence"):
            match = re.fullmatch(r"([0-9]{20})(\.note|-(?:0|[1-9][0-9]*)\.tsr)", name)
            if not match:
                self.note(f"evidence/{show(name)} is neither <size>.note nor <size>-<n>.tsr")
                continue
            if int(match[1]) >= 1 << 63 or match[2] != ".note" and int(match[2][1:-4]) >= 1 << 31:
                self.find("evidence/" + name, None, None, "a number that no log reaches", name, "a size below 2^63, n below 2^31")
                continue
            data = self.read("evidence/" + name, MAX_NOTE)
            if data is not None and match[2] == ".note":
                notes.append(("evidence/" + name, int(match[1]), data))
            elif data is not None:
                stamps += 1
                if int(match[1]) not in self.kept_sizes:
                    self.find("evidence/" + name, None, None, "time stamp of a size that is not in checkpoints", int(match[1]), "a kept size")
                else:
                    self.stamps.append((int(match[1]), "evidence/" + name, data))
        cosignatures = 0
        for file, size, data in notes:
            try:
                checkpoint = self.chain.open(data)
                if size is not None and checkpoint.size != size:
                    raise Refuse("cosigned checkpoint is of another size than its name", checkpoint.size, size)
            except Refuse as refuse:
                self.refused(file, None, None, refuse)
                continue
            self.targets.append(Target(checkpoint.size, checkpoint.root, file, None))
            cosignatures += data.count("\n\u2014 ".encode()) - len(set(checkpoint.signers))
        if cosignatures:
            self.note(f"{cosignatures} cosignatures by witnesses were not checked: this program knows no witness")
        if stamps:
            self.note(f"{stamps} time stamps: only their imprints were compared, not who signed them (RFC 3161 needs X.509)")

    def check_pins(self):
        """A pinned key of an epoch stands for that epoch's checkpoints and, by the closing one, for all later ones."""
        known = self.chain.all_keys()
        for pin in self.pins:
            if pin not in known:
                self.find("log.json", None, None, "pinned key is not one of the log's keys", [key.vkey[:80] for key in known], pin.vkey)
                self.findings.insert(0, self.findings.pop())  # it explains the others
        self.pinned = any(key in self.pins for epoch in self.chain.epochs for key in epoch.keys)
        if self.pins and not self.pinned:
            self.note("the log key alone proves nothing: pin a key of an epoch")

    def history_damage(self, bad):
        for offset, refuse in bad:
            self.refused("checkpoints", offset, None, refuse)

    def is_torn(self, offset):
        """Are the bytes from offset on, which follow the last note that opens, a torn note as the document defines it?"""
        length = self.history_size - offset
        if self.last_kept is None or length > MAX_NOTE or (self.head and offset < self.head.kept):
            return False
        self.history.seek(offset)
        data = self.history.read(length)
        if b"\n\n" + self.origin.encode() + b"\n" in data:
            return False
        lines = data.split(b"\n")
        if len(lines) < 3 or not re.fullmatch(DECIMAL.encode(), lines[1]):
            return True
        try:
            published = self.chain.open(self.checkpoint_note).size if self.checkpoint_note is not None else 0
        except Refuse:
            return True  # refuted anyway
        if len(lines[1]) > 20 or int(lines[1]) > published:
            return True
        return int(lines[1]) == published and torn_from(data, self.checkpoint_note + b"\n", offset)

    # Entries

    def extend(self, pos, line, file, offset, sink, builder=None):
        """Takes one entry line (without newline); what is wrong with it goes to sink."""
        index, leaf = pos.size, sha256(b"\x00" + line)
        try:
            entry = parse_entry(line, index)
            self.check_order(pos, entry)
            pos.timestamp = entry.timestamp
            if self.twin is not None and not pos.quiet and entry.log is not None:
                self.twin[1].append(b"%d %s\n" % (index, line))
            if builder:
                builder.add(entry)
            if not pos.quiet:
                if entry.log is not None:
                    self.take_control(index, entry.log, file)
                self.take_producer(index, entry.producer)
        except Refuse as refuse:
            sink.append(Finding(file, offset, index, refuse.what, refuse.got, refuse.want))
        if self.twin is not None and not pos.quiet:
            self.twin[0].append(leaf)
        self.take_leaf(pos, index, leaf, file, offset, sink)

    def take_leaf(self, pos, index, leaf, file, offset, sink):
        if self.overlap.get(index, leaf) != leaf:
            sink.append(Finding(file, offset, index, f"entry differs from the one in {self.overlap_from}", leaf.hex(),
                                self.overlap[index].hex()))
        for height, number, root in pos.push(leaf):
            if height % 8 == 0 and not pos.quiet:
                self.compare_derived(f"tree/{height // 8}", height // 8, number, root, sink)
        if not pos.quiet:
            if pos.size % GROUP == 0:
                self.compare_derived("chain", 0, index // GROUP, pos.chain, sink)
            self.compare_roots(pos, sink)
        if pos.size % GROUP == 0:
            pos.boundary()

    def check_order(self, pos, entry):
        if entry.log and entry.log["type"] == "clock":
            got = (entry.log["was"], entry.log["now"])
            if pos.timestamp is None:  # the entry before was not read
                got = (None, entry.log["now"])
            if got != (pos.timestamp, entry.timestamp):
                raise Refuse("clock entry's was and now", got, (pos.timestamp, entry.timestamp))
        elif pos.timestamp is not None and entry.timestamp < pos.timestamp:
            raise Refuse("timestamp decreases", entry.timestamp, f"not before {pos.timestamp}")

    def take_control(self, index, log, file):
        if log["type"] in ("hold", "release", "retire", "restore"):
            self.retention.append((index, log, file))
        if log["type"] == "recovery":
            self.recoveries.append((index, log))
        elif log["type"] == "epoch":
            self.epoch_entries.append((index, int(log["epoch"]), log["vkeys"]))
        elif log["type"] == "anchor":
            self.anchors.append((index, log))
        elif log["type"] in ("producer", "producer-end"):
            self.take_producer_key(index, log)
        elif log["type"] not in CONTROL:
            self.other_types.setdefault(log["type"], index)

    def take_producer_key(self, index, log):
        key = parse_producer_key(log["key"], log["name"])
        if log["type"] == "producer":
            producer = self.producers.setdefault(key.id, Producer())
            if producer.key is None:  # a key that ended does not begin again
                producer.key, producer.counts = key, True
        elif key.id in self.producers:
            self.producers[key.id].counts = False

    def take_producer(self, index, signed):
        if signed is None:
            self.unsigned += 1
            return
        ident, counter, signature, content = signed
        producer = self.producers.setdefault(ident, Producer())
        message = f"immutable/producer/1\n{self.origin}\n{ident}\n{counter}\n".encode() + content
        if producer.counts and counter not in producer.counters and producer.key.signed(message, signature):
            producer.counters[counter] = index
        else:
            producer.bad.append(index)

    def compare_roots(self, pos, sink):
        while pos.target < len(self.targets) and self.targets[pos.target].size <= pos.size:
            target = self.targets[pos.target]
            pos.target += 1
            for size, file, data in self.stamps:
                # The imprint is SHA-256 over the text of the checkpoint; DER holds it as it is.
                if size == target.size and sha256(f"{self.origin}\n{size}\n{b64(pos.root())}\n".encode()) not in data:
                    sink.append(Finding(file, None, None, f"is no time stamp of the checkpoint of size {size}", "another imprint", b64(pos.root())))
            self.stamps = [stamp for stamp in self.stamps if stamp[0] != target.size]
            if target.root != pos.root():
                sink.append(Finding(target.file, target.offset, None, f"root at size {pos.size} is not the entries' root",
                                    b64(target.root), b64(pos.root())))

    def compare_derived(self, name, level, number, want, sink):
        if name in self.tree_bad:
            return
        f, length = self.tree.get(level, (None, 0))
        offset, got = 32 * number, b""
        if offset + 32 <= length:
            f.seek(offset)
            got = f.read(32)
        if got == want:
            return
        signed = max([c.size for c in (self.newest, self.head) if c], default=0)
        needed = number + 1 << 8 * max(level, 1) <= signed
        if needed:
            self.tree_bad.add(name)
            what = f"hash {number} differs" if got else f"hash {number} is missing"
            sink.append(Finding(name, offset, None, what + DERIVED, got.hex(), want.hex()))
        elif length > offset:
            self.tree_bad.add(name)
            self.crash_leftover(name, offset, None, f"hash {number}, which no checkpoint needs, differs" + DERIVED, got.hex(), want.hex())

    def scan_text(self, f, name, first, length, pos, is_open):
        """Reads an open or pending segment from pos on. Position after its last valid commit, or None."""
        f.seek(0)
        want = segment_line(first, pos.chain)
        line = f.readline(MAX_LINE + 1)
        if line != want:
            self.find(name, 0, first, "segment line", line, want)
            return None
        offset = at = len(line)   # `at` is the end of the last valid commit
        committed, sink, problem = pos.copy(), [], None
        while offset < length and problem is None:
            line = f.readline(min(MAX_LINE + 1, length - offset))
            end = offset + len(line)
            if not line.endswith(b"\n"):
                problem = Finding(name, offset, pos.size, "line is too long or has no end", f"{len(line)} bytes", "a line")
            elif end - at > MAX_BATCH:
                problem = Finding(name, offset, pos.size, "batch is too long", f"more than {MAX_BATCH} bytes", f"at most {MAX_BATCH}")
            elif line.startswith(b'{"id":'):
                self.extend(pos, line[:-1], name, offset, sink)
            elif not line.startswith(b'{"commit":') or pos.size == committed.size:
                problem = Finding(name, offset, pos.size, "line does not belong here", show(line), "an entry, or a commit line after entries")
            else:
                want = commit_line(committed.size, pos.size, pos.chain, pos.root())
                if line != want:
                    problem = Finding(name, offset, pos.size, "commit line", show(line), show(want))
                else:
                    if pos.size - committed.size > MAX_BATCH_ENTRIES:
                        self.find(name, at, pos.size, "batch has too many entries", pos.size - committed.size, MAX_BATCH_ENTRIES)
                    for finding in sink:
                        self.add(finding)
                    committed, sink, at = pos.copy(), [], end
            offset = end
        if at == length:
            return committed
        if problem is None:
            problem = Finding(name, offset, pos.size, "ends without a commit line", "end of file", "a commit line")
        if is_open and self.incomplete_batch(f, at, length, committed.size):
            return committed
        for finding in sink + [problem]:
            self.add(finding)
        self.final = committed
        return None

    def incomplete_batch(self, f, at, length, size):
        """Whether the bytes after the last valid commit are what a crash may leave."""
        if length - at > MAX_BATCH:
            return False
        f.seek(at)
        tail = b"\n" + f.read(length - at)
        place = tail.find(b'\n{"commit":')
        while place >= 0:
            end = tail.find(b"\n", place + 1)
            if 0 <= end < len(tail) - 1:
                return False
            place = tail.find(b'\n{"commit":', place + 1)
        if self.head and (self.head.clean or self.head.size > size):
            return False
        self.crash_leftover("immutable.log", at, size, f"incomplete batch of {length - at} bytes at offset {at}, after entry {size}")
        return True

    def scan_retired(self, name, first, pos):
        """Reads what is kept of a retired segment in the place of its entries. Position after it, or None."""
        f = self.open(name)
        if f is None:
            return None
        size = os.fstat(f.fileno()).st_size
        digest = hashlib.file_digest(f, "sha256").hexdigest()
        try:
            start, end, at = leaves_header(f, size)
            kept = kept_lines(f, size, start, end, at)
            self.kept[first] = end, digest
            if start != first:
                raise At(0, Refuse("leaves of another segment than the name", start, first))
            while pos.size < end:
                f.seek(at + 32 * (pos.size - first))
                hashes = f.read(32 * GROUP)
                self.check_leaves(name, f.tell() - len(hashes), pos, hashes)
                sink = []
                for i in range(0, len(hashes), 32):
                    self.take_kept(name, pos, hashes[i:i + 32], kept.get(pos.size), sink)
                for finding in sink:
                    self.add(finding)
        except At as at:
            self.refused(name, at.offset, at.index, at.refuse)
            return None
        finally:
            f.close()
        pos.timestamp = None
        pos.boundary()
        return pos

    def take_kept(self, name, pos, leaf, kept, sink):
        """Takes one leaf hash, and the control entry that it is of if that was kept."""
        index = pos.size
        if kept:
            offset, line = kept
            if sha256(b"\x00" + line) != leaf:
                raise At(offset, Refuse("control line is not the entry of its leaf hash", sha256(b"\x00" + line).hex(), leaf.hex()), index)
            try:
                entry = parse_entry(line, index)
                if entry.log is None:
                    raise Refuse("entry that was kept is no control entry", line, "one")
            except Refuse as refuse:
                raise At(offset, refuse, index) from None
            pos.timestamp = None
            self.check_order(pos, entry)
            self.take_control(index, entry.log, name)
        self.take_leaf(pos, index, leaf, name, None, sink)

    def check_leaves(self, name, offset, pos, hashes):
        """Leaf hashes that contradict both tree/1 and chain are wrong themselves; one of these alone may be."""
        chain, roots = pos.chain, [hashes[i:i + 32] for i in range(0, len(hashes), 32)]
        for leaf in roots:
            chain = sha256(b"\x02" + chain + leaf)
        while len(roots) > 1:
            roots = [sha256(b"\x01" + roots[i] + roots[i + 1]) for i in range(0, len(roots), 2)]
        group = pos.size // GROUP
        stored = []
        for level in (1, 0):
            f, length = self.tree.get(level, (None, 0))
            if 32 * group + 32 > length:
                return
            f.seek(32 * group)
            stored.append(f.read(32))
        if stored[0] != roots[0] and stored[1] != chain:
            raise At(offset, Refuse("leaf hashes are not those that tree/1 and chain were made from", roots[0].hex(), stored[0].hex()), pos.size)

    def begin_twin(self, first):
        leaves = f"retired/{first:020d}.leaves"
        self.twin = ([], []) if leaves in self.retired else None

    def finish_twin(self, name, first, end):
        """A leaves file beside an archive is what the archive gives."""
        if self.twin is None:
            return
        leaves, lines = self.twin
        self.twin = None
        want = b'{"retired":{"first":%d,"end":%d}}\n' % (first, end) + b"".join(leaves) + b"".join(lines)
        file = f"retired/{first:020d}.leaves"
        f = self.open(file)
        if f is not None:
            digest = file_identity(f).split(" ")[0]
            self.kept[first] = end, digest
            if digest != sha256(want).hex():
                self.find(file, None, first, "is not what the entries of " + name + " give", digest, sha256(want).hex())

    def scan_archive(self, name, first, pos, sealed, path=None):
        """Reads an archive and checks its seal. Position after it, or None."""
        f = self.open(name, path=path)
        if f is None:
            return None
        size = os.fstat(f.fileno()).st_size
        digest = hashlib.file_digest(f, "sha256").hexdigest()
        self.digests[first] = digest, size, name
        builder = IndexBuilder(first) if self.indexes and path is None else None
        self.begin_twin(first)
        before = len(self.findings)
        try:
            frames = archive_frames(f, size)
            end = first + (len(frames) - 2) * GROUP
            if path is None:
                self.check_seal(name, first, end, f"{digest} {size}", sealed)
            with Decoder(f) as decoder:
                self.read_frames(decoder, frames, name, first, pos, builder)
        except At as at:
            self.refused(name, at.offset, at.index, at.refuse)
            self.note(f"{name} could not be read to its end; the seal and what follows it were not examined further")
            return None
        except Refuse as refuse:
            self.refused(name, None, None, refuse)
            return None
        finally:
            f.close()
        if builder and len(self.findings) == before:
            self.compare_index(first, builder.content(), sealed)
        self.finish_twin(name, first, pos.size)
        return pos

    def read_frames(self, decoder, frames, name, first, pos, builder):
        want = segment_line(first, pos.chain)
        got = decoder.out.read(frames[0][2])
        if got != want:
            raise At(0, decoder.failed(got, want), first)
        for offset, _, left in frames[1:-1]:
            sink = []
            for _ in range(GROUP):
                line = decoder.out.readline(MAX_LINE + 1)
                left -= len(line)
                if not line.endswith(b"\n") or left < 0:
                    raise At(offset, decoder.failed(line, "256 entry lines"), pos.size)
                self.extend(pos, line[:-1], name, offset, sink, builder)
            if left:
                raise At(offset, Refuse("frame has more than a group", f"{left} bytes more", "256 entry lines"), pos.size)
            for finding in sink:
                self.add(finding)
        offset, _, length = frames[-1]
        want = commit_line(first, pos.size, pos.chain, pos.root())
        got = decoder.out.read(length)
        if got != want:
            raise At(offset, decoder.failed(got, want), pos.size)
        decoder.finish()

    def check_seal(self, archive, first, end, identity, sealed):
        """`sealed`: no pending file holds the segment, so sealing was finished."""
        seal, idx = f"index/{first:020d}.seal", f"index/{first:020d}.idx"
        if seal not in self.index_files:
            if sealed:
                self.find(seal, None, None, "missing" + DERIVED, "no file", "a seal of " + archive)
            return
        data = self.read(seal, MAX_NOTE)
        f = self.open(idx, suffix=DERIVED)
        if data is None or f is None:
            return
        facts = [self.origin, f"{first} {end}", identity, file_identity(f)]
        names = ["kind", "origin", "range", "archive file", "idx file", "sdx file"]
        try:
            second = data.startswith(b"immutable/seal/2\n")
            body = self.chain.open_seal(data, 6 if second else 5)
            if second:
                f = self.open(f"index/{first:020d}.sdx", suffix=DERIVED)
                if f is None:
                    return
                match = re.fullmatch(r"([0-9a-f]{64} [1-9][0-9]*) ([0-9a-f]{64})", body[5])
                body[5:] = [match[1] if match else body[5]]
                faults = page_faults(f, match[2] if match else "")
                f.seek(0)
                facts.append(file_identity(f))
            elif f"index/{first:020d}.sdx" in self.index_files:
                self.note(f"index/{first:020d}.sdx is under no seal and was not looked at")
        except Refuse as refuse:
            self.refused(seal, 0, None, refuse, DERIVED)
            return
        for got, want, what in zip(body, [f"immutable/seal/{2 if second else 1}", *facts], names):
            if got != want:
                self.find(seal, None, first, f"seal's {what} is not what is there" + (DERIVED if what in names[4:] else ""), want, got)
        if second and body[5] == facts[4]:
            for in_seal, what, got, want in faults:
                self.find(seal if in_seal else f"index/{first:020d}.sdx", None, first, what + DERIVED, got, want)
        if self.last_kept is None or self.last_kept.size < end:
            self.find("checkpoints", None, None, f"no checkpoint at or after the sealed end of {archive}", "none", f"size {end} or more")

    def compare_index(self, first, want, sealed):
        name = f"index/{first:020d}.idx"
        if name not in self.index_files:
            if sealed:
                self.find(name, None, None, "missing" + DERIVED, "no file", f"{len(want)} bytes")
            return
        got = self.read(name, max(len(want), MAX_NOTE))
        if got is not None and got != want:
            place = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
            self.find(name, place, None, "differs from the entries" + DERIVED, got[place:place + 16].hex(), want[place:place + 16].hex())

    # Segments in order

    def scan(self):
        pos = self.final
        self.compare_roots(pos, self.findings)
        pos.boundary()
        pending = dict(self.pending)
        if len(pending) > MAX_PENDING:
            self.find("pending", None, None, "too many pending segments", len(pending), f"at most {MAX_PENDING}")
        for name, (first, f, length) in self.pending.items():
            if self.log and same_file(f, length, self.log, self.log_size):
                self.note(f"{name} is immutable.log itself: a rotation began and will be undone")
                del pending[name]
        gone = {name: first for name, first in self.retired.items() if f"archive/{first:020d}.jsonl.zst" not in self.archives}
        for name, first in sorted((self.archives | gone).items(), key=lambda item: item[1]):
            twin = f"pending/{first:020d}.jsonl"
            start = self.begin(name, first, pos)
            copy = os.path.join(self.cold or "", "archive", f"{first:020d}.jsonl.zst")
            if start and name in gone and self.cold and os.path.lexists(copy):
                pos = self.scan_archive(copy, first, start.copy(), True, copy)
            elif start and name in gone:
                pos = self.scan_retired(name, first, start.copy())
            else:
                pos = start and self.scan_archive(name, first, start.copy(), twin not in self.pending)
            if pos and twin in pending:
                self.finish_overlap(name, pos)
                pos = self.scan_twin(twin, *pending.pop(twin)[1:], name, first, start, pos)
            elif pos:
                self.finish_overlap(name, pos)
            if not pos:
                return self.stop(name)
            self.final = pos
        for name, (first, f, length) in pending.items():
            start = self.begin(name, first, pos)
            pos = start and self.scan_text(f, name, first, length, start.copy(), False)
            if not pos:
                return self.stop(name)
            if pos.size - first < GROUP:
                self.find(name, None, first, "segment without a whole group", pos.size - first, f"at least {GROUP} entries")
            self.finish_overlap(name, pos)
            self.keep_overlap(name, pos)
            self.final = pos
        if self.log is None:
            return self.stop("immutable.log")
        match = re.match(rb'\{"segment":\{"first":(0|[1-9][0-9]{0,19}),', self.log.read(64))
        start = self.begin("immutable.log", int(match[1]) if match else pos.restart.size, pos)
        pos = start and self.scan_text(self.log, "immutable.log", start.size, self.log_size, start.copy(), True)
        if not pos:
            return self.stop("immutable.log")
        self.finish_overlap("immutable.log", pos)
        self.final = pos

    def begin(self, name, first, pos):
        """The Position at which a segment begins, or None if the ranges do not meet."""
        if first != pos.restart.size:
            self.find(name, None, first, "segment does not begin at the last group boundary of the one before", first, pos.restart.size)
            return None
        return pos.restart_here()

    def scan_twin(self, name, f, length, archive, first, start, pos):
        """A pending file beside its archive: it holds the same entries, and perhaps more."""
        quiet = start.copy()
        quiet.quiet = True
        self.overlap, self.overlap_from = {}, archive
        twin = self.scan_text(f, name, first, length, quiet, False)
        if not twin:
            return None
        if twin.restart.size != pos.size or twin.restart.chain != pos.chain:
            self.find(name, None, pos.size, "differs from " + archive, f"{twin.restart.size} {twin.restart.chain.hex()}",
                      f"{pos.size} {pos.chain.hex()}")
            return None
        self.keep_overlap(name, twin)
        return pos

    def keep_overlap(self, name, pos):
        """Entries after the last boundary of a pending segment must stand again in the next segment."""
        self.overlap = {pos.restart.size + i: leaf for i, leaf in enumerate(pos.leaves)}
        self.overlap_from = name

    def finish_overlap(self, name, pos):
        missing = [index for index in self.overlap if index >= pos.size]
        if missing:
            self.find(name, None, missing[0], f"entries of {self.overlap_from} do not stand again", pos.size, missing[-1] + 1)
        self.overlap = {}

    def stop(self, name):
        self.stopped = True
        self.note(f"entries after the fault in {name} were not examined")

    # What needs the end of the log

    def finish(self):
        size = self.final.size
        for target in self.targets[self.final.target:]:
            if not self.stopped:
                self.find(target.file, target.offset, None, "is about more entries than the log has", target.size, f"at most {size}")
        for level, (f, length) in self.tree.items():
            name, due = f"tree/{level}" if level else "chain", size >> 8 * max(level, 1)
            if not self.stopped and (length > 32 * due or length == 0 and level):
                self.crash_leftover(name, 32 * due, None, "does not end with the log's last group" + DERIVED, f"{length} bytes", f"{32 * due} bytes")
        for name, first in self.index_files.items():
            if f"retired/{first:020d}.leaves" in self.retired and f"archive/{first:020d}.jsonl.zst" not in self.archives:
                self.note(f"{name} is of a retired segment: the retirement is not finished")
            elif f"archive/{first:020d}.jsonl.zst" not in self.archives:
                self.find(name, None, first, "belongs to no archive" + DERIVED, "no archive", f"archive/{first:020d}.jsonl.zst")
            elif name.endswith(".idx") and name[:-4] + ".seal" not in self.index_files and not self.indexes:
                self.note(f"{name} has no seal yet and was not compared with the entries (--indexes does)")
        for kind, index in self.other_types.items():
            if index < size:
                self.note(f"entry {index} is a control entry of unknown type {show(kind)}")
        if not self.stopped and self.newest and self.newest.size < size:
            self.note(f"entries {self.newest.size} to {size - 1} are after the newest checkpoint: no signature covers them")
        if self.head is None:
            self.note("no head: " + ("not looked for" if self.state_dir is None else f"none below {self.state_dir}"))
        else:
            self.compare_head(size)
        self.check_quarantine(size)
        self.check_epochs(size)
        self.check_anchors(size)
        self.check_retention(size)
        self.note_producers()

    def check_epochs(self, size):
        """The epoch entries and the chain of keys must be the same story."""
        chain = self.chain.epochs[1:]
        entries = [entry for entry in self.epoch_entries if entry[0] < size]
        for number, (index, said, vkeys) in enumerate(entries, 1):
            if said != number:
                self.find("immutable.log", None, index, "epoch entry's number", said, number)
            elif number > len(chain):
                if self.last_kept and index < self.last_kept.size:
                    self.crash_leftover("epochs", None, index, f"has no line for epoch {number}" + DERIVED, f"{len(chain)} lines", f"at least {number}")
                elif number > len(chain) + 1:
                    self.find("immutable.log", None, index, f"epoch {number} begins before the one before it was closed", "no closing checkpoint", "one")
                elif not self.keys:
                    self.find("immutable.log", None, index, "epoch entry in a log without keys", said, "none")
                else:
                    self.check_next_keys(index, vkeys)
            elif chain[number - 1].entry != index:
                self.find("epochs", None, index, f"entry of epoch {number} stands elsewhere" + DERIVED, chain[number - 1].entry, index)
        if not self.stopped and len(entries) < len(chain):
            self.find("epochs", None, chain[len(entries)].entry, "has a line for an epoch that the entries do not have", len(chain), len(entries))

    def check_retention(self, size):
        """Holds and tombstones in the order of their entries, and then what is there of each retired segment."""
        tombstones, holds = [], {}
        for index, log, file in self.retention:
            if index >= size:
                continue
            try:
                self.replay(index, log, tombstones, holds)
            except Refuse as refuse:
                self.refused(file, None, index, refuse)
        for hold in holds.values():
            self.note(f"the legal hold {hold['id']} is active: {hold['reason']}")
        for index, log in tombstones:
            self.check_tombstone(index, log)
        named = {int(log["first"]) for _, log in tombstones}
        for name, first in self.retired.items():
            if first in named or self.stopped:
                continue
            archive = f"archive/{first:020d}.jsonl.zst"
            if archive in self.archives:
                self.note(f"{name} is of a segment that no entry retires; the next open for writing removes it")
            else:
                self.find(archive, None, first, "is missing, and no entry says that the segment was retired", "no file", "an archive, or a tombstone")

    def replay(self, index, log, tombstones, holds):
        kind = log["type"]
        if kind == "hold":
            if log["id"] in holds:
                raise Refuse("hold is active already", log["id"], "another id")
            holds[log["id"]] = log
        elif kind == "release":
            if holds.pop(log["id"], None) is None:
                raise Refuse("release of a hold that is not active", log["id"], list(holds))
        elif kind == "restore":
            newest = (int(tombstones[-1][1]["first"]), tombstones[-1][0]) if tombstones else None
            if newest != (int(log["first"]), int(log["entry"])):
                raise Refuse("restore entry does not name the newest tombstone", (int(log["first"]), int(log["entry"])), newest)
            tombstones.pop()
        else:
            first, end, want = int(log["first"]), int(log["end"]), int(tombstones[-1][1]["end"]) if tombstones else 0
            if first != want or not first < end <= index or end % GROUP:
                raise Refuse("range of a retire entry", f"{first} to {end}", f"from {want} on, whole groups, to at most {index}")
            if holds:
                raise Refuse("segment is retired while a legal hold is active", list(holds), "no hold")
            tombstones.append((index, log))

    def check_tombstone(self, index, log):
        first, name = int(log["first"]), f"retired/{int(log['first']):020d}.leaves"
        archive = f"archive/{first:020d}.jsonl.zst"
        if name not in self.retired:
            self.find(name, None, first, f"is missing: entry {index} retires the segment", "no file", log["leaves"])
            return
        if first in self.kept:
            for what, got, want in zip(("end", "SHA-256"), self.kept[first], (int(log["end"]), log["leaves"])):
                if got != want:
                    self.find(name, None, first, f"{what} is not what the tombstone, entry {index}, says", got, want)
        if first in self.digests:
            digest, length, path = self.digests[first]
            if (digest, length) != (log["archive"], int(log["bytes"])):
                self.find(path, None, first, f"is not the archive that the tombstone, entry {index}, names", f"{digest} {length}", f"{log['archive']} {log['bytes']}")
        where = f"moved to {log['cold']}" if log["cold"] else "deleted"
        if archive in self.archives:
            return self.note(f"entries {first} to {int(log['end']) - 1} are retired by entry {index}, and their archive is still there")
        if first not in self.digests:
            self.note(f"entries {first} to {int(log['end']) - 1} are retired: their content was not read; {where} by entry {index}")
            if self.cold and log["cold"]:
                self.unknown(f"no copy of the segment of {first} is in {self.cold}")
        if self.history is not None and (self.last_kept is None or self.last_kept.size <= index):
            self.find("checkpoints", None, index, "no checkpoint is kept over a tombstone whose archive is gone", self.last_kept and self.last_kept.size, f"above {index}")

    def check_next_keys(self, index, vkeys):
        try:
            self.chain.epoch_keys(vkeys)
        except Refuse as refuse:
            self.refused("immutable.log", None, index, refuse)

    def check_anchors(self, size):
        for index, log in self.anchors:
            if index < size:
                data = self.read(log["file"], MAX_NOTE)
                if data is not None and sha256(data).hex() != log["sha256"]:
                    self.find(log["file"], None, index, "is not the file that an anchor entry names", sha256(data).hex(), log["sha256"])

    def note_producers(self):
        for ident, producer in self.producers.items():
            producer.cut(self.final.size)
            name = producer.key.name if producer.key else "an unregistered key"
            self.note(f"producer {ident} ({name}): {len(producer.counters)} signed, {len(producer.bad)} bad"
                      + (f" (first at index {producer.bad[0]})" if producer.bad else "") + ", missing " + (producer.missing() or "none"))

    def compare_head(self, size):
        head, path = self.head, self.head.path
        vkey = self.keys[0].vkey if self.keys else ""
        for what, got, want in (("vkey", head.vkey, vkey), ("log (hash of log.json)", head.log, self.log_hash)):
            if got != want:
                self.find(path, None, None, f"head's {what} is not the directory's", got, want)
        inode = os.stat(self.path("log.json")).st_ino
        if head.inode not in (0, inode):
            self.note(f"log.json has inode {inode}, the head says {head.inode}: this directory is a copy, read-only until adopted")
        newest = max((c.size for c in (self.checkpoint, self.last_kept) if c), default=0)
        if newest > head.size:
            self.find(path, None, None, "a checkpoint is newer than the highest size the head knows", newest, f"at most {head.size}")
        if not head.clean:
            self.note("the head says that the log is open or was not closed cleanly")
            return
        facts = [("checkpoints' length", self.history_size, head.kept),
                 ("checkpoint's size", self.checkpoint.size if self.checkpoint else None, head.size),
                 ("size of the last of checkpoints", self.last_kept.size if self.last_kept else None, head.size)]
        if not self.stopped:
            facts.append(("log's size", size, head.size))
        for what, got, want in facts:
            if got != want:
                self.find(path, None, None, f"after a clean close the {what} is not the head's", got, want)

    def check_quarantine(self, size):
        for name in self.names("quarantine"):
            match = re.fullmatch(DECIMAL + "-([0-9a-f]{64})", name)
            if not match:
                self.note(f"quarantine/{show(name)} is not <offset>-<sha256>")
                continue
            f = self.open("quarantine/" + name)
            if f is not None:
                got = hashlib.file_digest(f, "sha256").hexdigest()
                if got != match[2]:
                    self.find("quarantine/" + name, None, None, "does not hash to its name", got, match[2])
                f.close()
        for index, log in self.recoveries:
            try:
                if index < size and (got := os.lstat(self.path(log["file"])).st_size) != int(log["bytes"]):
                    self.find(log["file"], None, index, "length is not what the recovery entry says", got, log["bytes"])
            except FileNotFoundError:
                self.find(log["file"], None, index, "a recovery entry names it and it is missing", "no file", log["sha256"])

    def unknown_names(self):
        for name in self.names(""):
            if name not in DIR_FILES and name not in DIR_DIRS:
                self.note(f"unknown name {show(name)}, about which the format says nothing")

    def state(self):
        """What changes when a writer is at work; used only to decide whether to look again."""
        result = [self.names("pending"), self.names("archive"), self.names("retired")]
        for name in ("immutable.log", "checkpoint", "checkpoints"):
            try:
                status = os.stat(self.path(name))
                result.append((status.st_ino, status.st_size))
            except OSError:
                result.append(None)
        return result

    def run(self):
        """True when the answer stands; False when the directory changed while it was read."""
        before = self.state()
        try:
            if self.identity():
                if not self.snapshot():
                    self.unknown("a rotation was under way")
                    return False
                if self.unknowns:
                    self.note("the rest was not examined: what could not be read would look like something missing")
                else:
                    self.read_notes()
                    self.scan()
                    self.finish()
            self.unknown_names()
        except OSError as error:
            self.unknown(f"{error.filename or 'a file'} could not be read: {error.strerror}")
        finally:
            for f in self.opened:
                f.close()
        return not (self.findings or self.unknowns) or self.state() == before


def file_identity(f):
    """Hash and length as a seal writes them. Closes the file."""
    with f:
        return f"{hashlib.file_digest(f, 'sha256').hexdigest()} {os.fstat(f.fileno()).st_size}"


def page_faults(f, want):
    """What is wrong with the table of page digests at the end of an sdx file, and with the seal's hash of it, `want`."""
    size = os.fstat(f.fileno()).st_size
    pages = -(-size // (SEARCH_PAGE + 32))
    f.seek(max(size - 32 * pages, 0))
    table = f.read()
    got = hashlib.sha256(table).hexdigest()
    if got != want:
        return [(True, "seal's hash of the sdx file's table of pages is not what is there", want, got)]
    f.seek(0)
    for page in range(pages):
        got = hashlib.sha256(f.read(min(SEARCH_PAGE, size - 32 * pages - SEARCH_PAGE * page))).digest()
        if got != table[32 * page:][:32]:
            return [(False, f"page {page} is not the one in the table of pages", table[32 * page:][:32].hex(), got.hex())]
    return []


def same_file(a, a_length, b, b_length):
    """One inode, or equal bytes (a copy does not keep hard links)."""
    if os.path.sameopenfile(a.fileno(), b.fileno()):
        return True
    if a_length != b_length:
        return False
    a.seek(0)
    b.seek(0)
    while chunk := a.read(1 << 20):
        if chunk != b.read(len(chunk)):
            break
    same = not chunk
    b.seek(0)
    return same


# --- Command line -----------------------------------------------------------------------------------

def default_state_dir():
    given = os.environ.get("IMMUTABLE_STATE_DIR")
    if given:
        return given
    if sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Application Support")
    elif sys.platform == "win32":
        base = os.environ.get("LocalAppData") or os.path.expanduser("~/AppData/Local")
    else:
        base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "immutable")


def load_pins(text):
    """A verifier key as given, or the file that holds some, one a line."""
    try:
        return [parse_vkey(text)]
    except Refuse as refuse:
        if not os.path.exists(text):
            raise CannotRun(f"--key {text}: {refuse.what}, and no such file") from None
    try:
        with open(text, encoding="utf-8") as f:
            return [parse_vkey(line) for line in f.read(MAX_NOTE).split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError, Refuse) as error:
        raise CannotRun(f"--key {text}: {error}") from None


def load_evidence(path):
    try:
        with open(path, "rb") as f:
            data = f.read(MAX_NOTE + 1)
    except OSError as error:
        raise CannotRun(f"--checkpoint {path}: {error.strerror}") from None
    if not re.match(rb"[^\n]+\n[0-9]+\n[A-Za-z0-9+/=]{44}\n\n", data):
        raise CannotRun(f"--checkpoint {path}: not a checkpoint note")
    return path, data


def load_bundle(path):
    try:
        with open(path, "rb") as f:
            return f.read(MAX_FILE + 1)
    except OSError as error:
        raise CannotRun(f"{path}: {error.strerror}") from None


def verify(directory, state_dir=None, pins=(), evidence=(), indexes=False, tries=4, cold=None):
    if not os.path.isdir(directory):
        raise CannotRun(f"{directory} is not a directory")
    for _ in range(tries):
        verifier = Verifier(directory, state_dir, list(pins), list(evidence), indexes, cold)
        if verifier.run():
            break
    return verifier.report()


def print_report(report, quiet):
    print(report["verdict"])
    if quiet:
        return
    print(f"origin {report['origin']}\nsize {report['size']}\nroot {report['root']}")
    print("compared with: " + (", ".join(report["basis"]) or "nothing from outside the directory"))
    for finding in report["findings"]:
        place = "".join(f" {name} {finding[name]}" for name in ("offset", "index") if finding[name] is not None)
        print(f"finding: {finding['file']}{place}: {finding['what']}\n  got  {finding['got']}\n  want {finding['want']}")
    for note in report["notes"]:
        print("note: " + note)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Checks a log directory: refuted, unknown, proven or consistent.")
    parser.add_argument("--state-dir", help="where this host keeps heads (default: as the document says)")
    parser.add_argument("--no-state", action="store_true", help="do not look for a head")
    parser.add_argument("--key", action="append", default=[], metavar="VKEY|FILE", help="verifier key known from outside")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="FILE", help="checkpoint kept from earlier")
    parser.add_argument("--cold", metavar="DIR", help="where retired segments were moved: read them there")
    parser.add_argument("--indexes", action="store_true", help="recompute the idx files")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="print the verdict only")
    parser.add_argument("dir", metavar="DIR|BUNDLE", help="a log's directory, or an evidence bundle (HTML or JSON)")
    args = parser.parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        state_dir = None if args.no_state else args.state_dir or default_state_dir()
        pins, evidence = [pin for key in args.key for pin in load_pins(key)], [load_evidence(path) for path in args.checkpoint]
        if os.path.isfile(args.dir):
            report = verify_bundle(load_bundle(args.dir), pins, evidence)
        else:
            report = verify(args.dir, state_dir, pins, evidence, args.indexes, cold=args.cold)
    except CannotRun as error:
        print(f"immutable_verify: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print_report(report, args.quiet)
    return {"refuted": 1, "unknown": 2}.get(report["verdict"], 0)


if __name__ == "__main__":
    sys.exit(main())
