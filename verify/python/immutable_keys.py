"""The chain of keys of a log: which keys must have signed a checkpoint of a given size.

Written from the section "Keys" of docs/format.md alone.
"""
from __future__ import annotations

import re
from dataclasses import dataclass

from immutable_format import (
    CANON, DECIMAL, ED25519, I64_MAX, MAX_NOTE, MLDSA44, Refuse, open_checkpoint, open_note, parse_entry, parse_vkey,
    sha256, show, unbase64, unescape)

PROOF_HEADER = "c2sp.org/tlog-proof@v1\n"
LINK = re.compile(rf'\{{"epoch":{DECIMAL},"entry":{CANON},"proof":{CANON}\}}')
MAX_PROOF_HASHES = 63


@dataclass(frozen=True)
class Epoch:
    number: int
    after: int    # it signs checkpoints of sizes above; epoch 0 also size 0
    entry: int    # index of its entry; -1 for epoch 0
    keys: tuple
    closing: bytes | None  # the note that closed the epoch before


def parse_log_keys(vkeys, origin):
    """The three forms of vkeys in log.json: none, the log key, or log key and epoch 0's two."""
    keys = [parse_vkey(vkey) for vkey in vkeys]
    if [key.kind for key in keys] not in ([], [ED25519], [ED25519, ED25519, MLDSA44]):
        raise Refuse("vkeys are in none of the three forms", [f"{key.kind:02x}" for key in keys], "[], [01] or [01 01 06]")
    for key in keys:
        if key.name != origin:
            raise Refuse("verifier key of another name", key.name, origin)
    if len({key.id for key in keys}) != len(keys):
        raise Refuse("two verifier keys have one id", [key.id.hex() for key in keys], "different ones")
    return keys


class Chain:
    def __init__(self, origin, keys):
        self.origin, self.log_key = origin, keys[0] if keys else None
        self.epochs = [Epoch(0, 0, -1, tuple(keys[1:] or keys), None)]

    def epoch_of(self, size):
        return next(epoch for epoch in reversed(self.epochs) if epoch.after < size or epoch.number == 0)

    def all_keys(self):
        return [key for key in [self.log_key] if key] + [key for epoch in self.epochs for key in epoch.keys if key != self.log_key]

    def open(self, note):
        """A checkpoint that the log key and every key of its epoch signed."""
        if self.log_key is None:
            return open_checkpoint(note, self.origin, [])
        match = re.match(rb"[^\n]*\n" + DECIMAL.encode() + rb"\n", note[:512])
        if not match:
            raise Refuse("not a checkpoint note", note, "origin, size, root")
        epoch = self.epoch_of(int(match[1]))
        want = [self.log_key] + [key for key in epoch.keys if key != self.log_key]
        checkpoint = open_checkpoint(note, self.origin, want)
        self.refuse_others(note, want, epoch.number)
        for key in want:
            if key not in checkpoint.signers:
                raise Refuse(f"signature stripped: a key of epoch {epoch.number} did not sign", [k.id.hex() for k in checkpoint.signers],
                             f"{key.id.hex()} (type {key.kind:02x})")
        return checkpoint

    def refuse_others(self, note, want, number, more=()):
        """A key of another epoch signs nothing at this size, good or bad."""
        own = {(key.name, key.id.hex()) for key in want}
        others = {(key.name, key.id.hex()) for key in (*self.all_keys(), *more)} - own
        for line in note.decode("utf-8").rpartition("\n\n")[2].split("\n"):
            name, _, blob = line.removeprefix("\u2014 ").partition(" ")
            if (name, unbase64(blob)[:4].hex() if blob else "") in others:
                raise Refuse(f"a checkpoint of epoch {number} carries a signature in the name of a key of another epoch", line, "none")

    def open_seal(self, data, lines):
        """The text lines of a seal, which the Ed25519 key of any epoch signed."""
        if self.log_key is None:
            return open_note(data, [], lines)[0]
        return open_note(data, [key for epoch in self.epochs for key in epoch.keys if key.kind == ED25519], lines)[0]

    def add(self, line):
        """Follows the chain by one line of the file `epochs` (without its newline)."""
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise Refuse("epochs line is not UTF-8", line, "UTF-8") from None
        match = LINK.fullmatch(text)
        if not match:
            raise Refuse("epochs line is not as the document shows it", line, '{"epoch":…,"entry":"…","proof":"…"}')
        last = self.epochs[-1]
        number, entry, proof = int(match[1]), unescape(match[2]).encode(), unescape(match[3])
        if number != last.number + 1:
            raise Refuse("epochs out of order", number, last.number + 1)
        index, hashes, note = parse_proof(proof)
        closing = self.open_closing(note, last)
        if not last.after <= index < closing.size:
            raise Refuse(f"entry of epoch {number} stands at index", index, f"{last.after} to {closing.size - 1}")
        leaf = sha256(b"\x00" + entry)
        root = inclusion_root(hashes, index, closing.size, leaf)
        if root != closing.root:
            raise Refuse(f"entry of epoch {number} is not in the closing checkpoint", root.hex(), closing.root.hex())
        log = parse_entry(entry, index).log
        if log is None or log["type"] != "epoch" or int(log["epoch"]) != number:
            raise Refuse(f"entry of epoch {number} is another entry", entry, "a control entry that names the keys")
        keys = self.epoch_keys(log["vkeys"])
        self.refuse_others(note, [self.log_key, *last.keys], last.number, keys)
        self.epochs.append(Epoch(number, closing.size, index, keys, note))

    def open_closing(self, note, last):
        """The old epoch closed itself: its keys signed a size above those that closed the epoch before."""
        want = [self.log_key] + [key for key in last.keys if key != self.log_key]
        closing = open_checkpoint(note, self.origin, want)
        missing = [key for key in want if key not in closing.signers]
        if missing:
            raise Refuse(f"closing checkpoint of epoch {last.number} lacks a signature", [k.id.hex() for k in closing.signers], missing[0].id.hex())
        if closing.size <= last.after:
            raise Refuse(f"closing checkpoint of epoch {last.number} is of size", closing.size, f"above {last.after}")
        return closing

    def epoch_keys(self, vkeys):
        keys = tuple(parse_vkey(vkey) for vkey in vkeys)
        if [key.kind for key in keys] != [ED25519, MLDSA44]:
            raise Refuse("epoch's keys are of types", [f"{key.kind:02x}" for key in keys], "01 and 06")
        for key in keys:
            if key.name != self.origin:
                raise Refuse("epoch's key of another name", key.name, self.origin)
        ids = [key.id for key in self.all_keys()]  # of every epoch so far
        if len({*ids, *(key.id for key in keys)}) != len(set(ids)) + 2:
            raise Refuse("epoch's keys have an id that is taken", [key.id.hex() for key in keys], "different ones")
        return keys


def parse_proof(text):
    """(index, hashes, note) of a tlog-proof without extra line."""
    if not text.startswith(PROOF_HEADER) or "\n\n" not in text:
        raise Refuse("not a tlog-proof", text, PROOF_HEADER.strip())
    head, _, note = text[len(PROOF_HEADER):].partition("\n\n")
    first, *rest = head.split("\n")
    match = re.fullmatch("index " + DECIMAL, first)
    if not match or int(match[1]) > I64_MAX or len(rest) > MAX_PROOF_HASHES:
        raise Refuse("tlog-proof's index or number of hashes", show(first), "index N and at most 63 hashes")
    if len(note.encode()) > MAX_NOTE:
        raise Refuse("tlog-proof's checkpoint is too long", len(note), f"at most {MAX_NOTE}")
    return int(match[1]), [unbase64(line, 32) for line in rest], note.encode()


def inclusion_root(hashes, index, size, leaf):
    """The root that an inclusion proof leads to (RFC 9162, 2.1.3.2)."""
    if index >= size:
        raise Refuse("inclusion proof's index", index, f"below {size}")
    fn, sn, node = index, size - 1, leaf
    for sibling in hashes:
        if sn == 0:
            raise Refuse("inclusion proof has too many hashes", len(hashes), "one a level")
        if fn & 1 or fn == sn:
            node = sha256(b"\x01" + sibling + node)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            node = sha256(b"\x01" + node + sibling)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise Refuse("inclusion proof has too few hashes", len(hashes), "one a level")
    return node
