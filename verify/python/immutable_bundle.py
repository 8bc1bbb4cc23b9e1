"""Evidence bundles: entries of one log with everything that verifies them without the log.

Written from the section "Evidence bundle" of docs/format.md alone. The query of a selection and who signed a time
stamp (X.509) are not checked here; the report says so.
"""
from __future__ import annotations

import json
import re

from immutable_format import (
    I64_MAX, LEVELS, Refuse, b64, check_timestamp, checkpoint_lines, parse_entry, parse_vkey, sha256,
    show, unbase64)
from immutable_keys import Chain, parse_log_keys

MARK = b'<script type="application/json" id="immutable-bundle">'
MAX_DATA = 64 << 20
MAX_FILE = MAX_DATA + (16 << 20)   # a page has a verifier around the data
MAX_ENTRIES, MAX_TIMES, MAX_CONSISTENCY = 100_000, 64, 64
MAX_STAMP = 65_536


def extract(data):
    """The data of a bundle file: the file itself, or one line of its page."""
    if data.startswith(b'{"format":"immutable/bundle/'):
        return data.removesuffix(b"\n")
    if len(data) > MAX_FILE:
        raise Refuse("file is too long", len(data), f"at most {MAX_FILE} bytes")
    lines = data.split(b"\n")
    places = [i for i, line in enumerate(lines) if line.startswith(MARK)]
    if data.count(b'id="immutable-bundle"') != 1 or len(places) != 1 or lines[places[0]] != MARK:
        raise Refuse("not a bundle: the data element does not stand there once", data.count(b'id="immutable-bundle"'), 1)
    if len(lines) < places[0] + 3 or lines[places[0] + 2] != b"</script>":
        raise Refuse("the data element does not end after one line", "", "</script>")
    return lines[places[0] + 1]


def spell(text):
    """A string in the one spelling of bundles."""
    out = []
    for c in text:
        code = ord(c)
        if c in '"\\':
            out.append("\\" + c)
        elif c in "\b\t\n\f\r":
            out.append({"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}[c])
        elif code < 0x20 or 0x7F <= code <= 0x9F or c in "<>&":
            out.append(f"\\u{code:04x}")
        else:
            out.append(c)
    return '"' + "".join(out) + '"'


def encode(value):
    if isinstance(value, str):
        return spell(value)
    if isinstance(value, list):
        return "[" + ",".join(encode(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(spell(k) + ":" + encode(v) for k, v in value.items()) + "}"
    return str(value)


SHAPE = {
    "format": str, "statement": {"query": str, "levels": [str], "since": str, "until": str, "from": int, "to": int, "count": int, "made": str, "program": str},
    "log": {"origin": str, "vkeys": [str]}, "epochs": str, "checkpoint": str, "policy": str,
    "times": [{"checkpoint": str, "consistency": [str], "stamp": str}], "proof": [str], "entries": [{"index": int, "leaf": str, "line": str}],
}


def check_shape(value, shape, place):
    if isinstance(shape, dict):
        if type(value) is not dict or list(value) != list(shape):
            raise Refuse(f"members of {place}", list(value) if type(value) is dict else value, list(shape))
        for name, inner in shape.items():
            check_shape(value[name], inner, f"{place}.{name}")
    elif isinstance(shape, list):
        if type(value) is not list:
            raise Refuse(f"{place} is not an array", value, "an array")
        for i, inner in enumerate(value):
            check_shape(inner, shape[0], f"{place}[{i}]")
    elif type(value) is not shape or shape is int and not 0 <= value <= I64_MAX:
        raise Refuse(place, value, "a string" if shape is str else "a number from 0 to 2^63 - 1")


def parse(data):
    if len(data) > MAX_DATA:
        raise Refuse("bundle is too long", len(data), f"at most {MAX_DATA} bytes")
    try:
        value = json.loads(data.decode("utf-8"))
        check_shape(value, SHAPE, "bundle")
        again = encode(value).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Refuse("bundle is not JSON in UTF-8", error, "the document's form") from None
    if again != data:
        place = next((i for i, (a, b) in enumerate(zip(data, again)) if a != b), min(len(data), len(again)))
        raise Refuse(f"bundle is not in its one spelling at byte {place}", data[place:place + 40], again[place:place + 40])
    if value["format"] != "immutable/bundle/1":
        raise Refuse("bundle of another format", value["format"], "immutable/bundle/1")
    for name, limit in (("entries", MAX_ENTRIES), ("times", MAX_TIMES)):
        if len(value[name]) > limit:
            raise Refuse(f"too many {name}", len(value[name]), f"at most {limit}")
    if not value["entries"]:
        raise Refuse("bundle without entries", 0, "at least 1")
    return value


class Bundle:
    """One verification. `run` raises Refuse at the first thing that does not fit."""

    def __init__(self, data, pins=(), checkpoints=()):
        self.data, self.pins, self.checkpoints = data, pins, checkpoints
        self.notes, self.basis, self.covered, self.unknown = [], [], 0, False

    def run(self):
        b = parse(extract(self.data))
        self.bundle, self.origin = b, b["log"]["origin"]
        self.open_keys()
        self.check_entries()
        self.check_statement()
        self.known = {self.checkpoint.size: self.checkpoint.root}
        for i, time in enumerate(b["times"]):
            self.check_time(i, time)
        self.from_outside()

    def open_keys(self):
        b = self.bundle
        keys = parse_log_keys(b["log"]["vkeys"], self.origin)
        if not keys:
            raise Refuse("bundle of a log without signatures", 0, "one or three vkeys")
        if not re.fullmatch(r"[!#-*,-\[\]-~]{1,255}", self.origin) or self.origin.startswith("immutable/"):
            raise Refuse("origin", self.origin, "as in log.json")
        self.chain = Chain(self.origin, keys)
        *lines, rest = b["epochs"].encode().split(b"\n")
        if rest:
            raise Refuse("epochs does not end with a newline", rest, "whole lines")
        for line in lines:
            self.chain.add(line)
        note = b["checkpoint"].encode()
        self.checkpoint = self.chain.open(note)
        if self.chain.epoch_of(self.checkpoint.size).number != len(lines):
            raise Refuse("epochs goes on after the checkpoint's epoch", len(lines), self.chain.epoch_of(self.checkpoint.size).number)
        if b["policy"]:
            self.witnesses = policy_keys(b["policy"])
            for text in (b["checkpoint"], *(time["checkpoint"] for time in b["times"])):
                self.check_signers(text)

    def check_signers(self, note):
        """With a policy in the bundle no signature line is by somebody unknown, and the witnesses' are good."""
        body, _, lines = note.partition("\n\n")
        body = body.split("\n")
        checkpoint_lines(body)
        for line in lines.removesuffix("\n").split("\n"):
            name, _, blob = line.removeprefix("\u2014 ").partition(" ")
            blob = unbase64(blob)
            signer = [key for key in (*self.chain.all_keys(), *self.witnesses) if (key.name, key.id) == (name, blob[:4])]
            if not signer:
                raise Refuse("signature by neither the log nor a witness of the policy", line, "a known key")
            if signer[0] in self.witnesses and not signer[0].signed(body, blob[4:]):
                raise Refuse("bad cosignature", line, signer[0].vkey)

    def check_entries(self):
        self.leaves, last = {}, -1
        for i, item in enumerate(self.bundle["entries"]):
            index, line = item["index"], item["line"].encode()
            if not last < index < self.checkpoint.size:
                raise Refuse(f"index of entries[{i}]", index, f"above {last} and below {self.checkpoint.size}")
            last = index
            leaf = sha256(b"\x00" + line)
            if item["leaf"] != leaf.hex():
                raise Refuse(f"entry {index} is not what its leaf says", leaf.hex(), item["leaf"])
            try:
                item["parsed"] = parse_entry(line, index)
            except Refuse as refuse:
                raise Refuse(f"entry {index}: {refuse.what}", refuse.got, refuse.want) from None
            self.leaves[index] = leaf
        hashes = [unbase64(h, 32) for h in self.bundle["proof"]]
        hashes.reverse()
        root = self.walk(0, self.checkpoint.size, sorted(self.leaves), hashes)
        if hashes:
            raise Refuse("proof has hashes that nothing needs", len(hashes), 0)
        if root != self.checkpoint.root:
            raise Refuse("entries and proof do not lead to the checkpoint's root", b64(root), b64(self.checkpoint.root))

    def walk(self, low, high, indexes, hashes):
        if not indexes:
            if not hashes:
                raise Refuse("proof has too few hashes", "none left", "one more")
            return hashes.pop()
        if high == low + 1:
            return self.leaves[low]
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        cut = next((i for i, index in enumerate(indexes) if index >= middle), len(indexes))
        left = self.walk(low, middle, indexes[:cut], hashes)
        return sha256(b"\x01" + left + self.walk(middle, high, indexes[cut:], hashes))

    def check_statement(self):
        s, entries = self.bundle["statement"], self.bundle["entries"]
        low, high = s["from"], s["to"]
        if s["count"] != len(entries):
            raise Refuse("statement's count", s["count"], len(entries))
        if not low <= high <= self.checkpoint.size:
            raise Refuse("statement's range", f"{low} to {high}", f"within {self.checkpoint.size}")
        if entries[0]["index"] < low or entries[-1]["index"] >= high:
            raise Refuse("entries outside the statement's range", f"{entries[0]['index']} to {entries[-1]['index']}", f"{low} to {high - 1}")
        for name in ("made", "since", "until"):
            if s[name] or name == "made":
                check_timestamp(s[name])
        if len(set(s["levels"])) != len(s["levels"]) or not set(s["levels"]) <= set(LEVELS):
            raise Refuse("statement's levels", s["levels"], "names of levels, each once")
        for item in entries:
            entry = item.pop("parsed")
            if s["levels"] and entry.level not in s["levels"]:
                raise Refuse(f"entry {item['index']} is of a level that was not asked for", entry.level, s["levels"])
            if s["since"] and entry.timestamp < s["since"] or s["until"] and entry.timestamp >= s["until"]:
                raise Refuse(f"entry {item['index']} is of a time that was not asked for", entry.timestamp, f"{s['since']} to {s['until']}")
        self.complete = len(entries) == high - low
        if not (s["query"] or s["levels"] or s["since"] or s["until"]) and not self.complete:
            raise Refuse("the statement asks for every entry of a range, and some are missing", len(entries), high - low)
        if self.complete:
            self.notes.append(f"complete: nothing is missing among entries {low} to {high - 1}")
        else:
            self.notes.append(f"a selection of {len(entries)} among entries {low} to {high - 1}: it does not show that nothing was left out")
        if s["query"]:
            self.notes.append(f"that the entries match the query {show(s['query'])} was not checked: this program does not know the language")

    def check_time(self, i, time):
        checkpoint = self.chain.open(time["checkpoint"].encode())
        hashes = [unbase64(h, 32) for h in time["consistency"]]
        if checkpoint.size > self.checkpoint.size or len(hashes) > MAX_CONSISTENCY:
            raise Refuse(f"times[{i}]'s size or number of hashes", checkpoint.size, f"at most {self.checkpoint.size}, {MAX_CONSISTENCY} hashes")
        check_consistency(hashes, checkpoint, self.checkpoint)
        self.known[checkpoint.size] = checkpoint.root
        stamp = base64_of(time["stamp"])
        if stamp:
            text = f"{self.origin}\n{checkpoint.size}\n{b64(checkpoint.root)}\n".encode()
            if len(stamp) > MAX_STAMP or sha256(text) not in stamp:
                raise Refuse(f"times[{i}] is no time stamp of its checkpoint", f"{len(stamp)} bytes", "its imprint")
            self.notes.append(f"a time stamp covers entries below {checkpoint.size}; who signed it was not checked (X.509)")

    def from_outside(self):
        epochs = self.chain.all_keys()
        for pin in self.pins:
            if pin not in epochs:
                raise Refuse("pinned key is not one of the log's keys", [key.vkey[:80] for key in epochs], pin.vkey)
            if pin == self.chain.log_key and pin not in self.chain.epochs[0].keys:
                self.notes.append("the log key alone proves nothing: pin a key of an epoch")
            else:
                self.cover("key", self.checkpoint.size)
        for path, data in self.checkpoints:
            kept = self.open_kept(path, data)
            if kept is None or kept.size not in self.known:
                self.unknown = True
                self.notes.append(f"could not tell: {show(path)} is of a size that this bundle says nothing about")
            elif kept.root != self.known[kept.size]:
                raise Refuse(f"{path}: another root at size {kept.size}", b64(self.known[kept.size]), b64(kept.root))
            else:
                self.cover("checkpoint", kept.size)

    def open_kept(self, path, data):
        """A checkpoint from outside; None where it is of a later epoch than the bundle's chain of keys reaches."""
        match = re.match(rb"[^\n]*\n(0|[1-9][0-9]{0,18})\n", data)
        if match and int(match[1]) > self.checkpoint.size and data.startswith(self.origin.encode() + b"\n"):
            return None
        return self.chain.open(data)

    def cover(self, kind, size):
        if kind not in self.basis and size > self.bundle["entries"][0]["index"]:
            self.basis.append(kind)
        self.covered = max(self.covered, size)


def base64_of(text):
    return unbase64(text) if text else b""


def policy_keys(text):
    """The witnesses' keys of a C2SP tlog-policy. Its groups and quorum are not evaluated here."""
    keys = []
    for line in text.split("\n"):
        words = line.split()
        if words and words[0] == "witness" and len(words) in (3, 4):
            keys.append(parse_vkey(words[2]))
        elif words and not words[0].startswith("#") and words[0] not in ("log", "group", "quorum"):
            raise Refuse("policy has an unknown word", words[0], "log, witness, group or quorum")
    return keys


def check_consistency(hashes, first, second):
    """RFC 9162, 2.1.4.2."""
    if first.size == second.size:
        if hashes or first.root != second.root:
            raise Refuse("two checkpoints of one size", b64(first.root), b64(second.root))
        return
    if first.size == 0:
        if hashes or first.root != sha256(b""):
            raise Refuse("consistency with the empty tree", len(hashes), "no hashes")
        return
    path = list(hashes)
    if first.size & first.size - 1 == 0:
        path.insert(0, first.root)
    if not path:
        raise Refuse("consistency proof has too few hashes", 0, "at least 1")
    fn, sn = first.size - 1, second.size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    a = b = path[0]
    for sibling in path[1:]:
        if sn == 0:
            raise Refuse("consistency proof has too many hashes", len(hashes), "one a level")
        if fn & 1 or fn == sn:
            a, b = sha256(b"\x01" + sibling + a), sha256(b"\x01" + sibling + b)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            b = sha256(b"\x01" + b + sibling)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or a != first.root or b != second.root:
        raise Refuse(f"checkpoints of sizes {first.size} and {second.size} are not consistent", f"{b64(a)} {b64(b)}", f"{b64(first.root)} {b64(second.root)}")


def verify_bundle(data, pins=(), checkpoints=()):
    """The report, in the shape of a directory's."""
    bundle, findings = Bundle(data, list(pins), list(checkpoints)), []
    try:
        bundle.run()
    except Refuse as refuse:
        findings.append({"file": "bundle", "offset": None, "index": None, "what": refuse.what, "got": refuse.got, "want": refuse.want})
    if findings:
        verdict = "refuted"
    elif bundle.unknown:
        verdict = "unknown"
    else:
        verdict = "proven" if bundle.basis else "consistent"
    at = getattr(bundle, "checkpoint", None)
    return {"verdict": verdict, "origin": getattr(bundle, "origin", None), "size": at.size if at else 0, "root": b64(at.root) if at else "",
            "entries": len(getattr(bundle, "bundle", {}).get("entries", [])), "basis": bundle.basis, "findings": findings, "notes": bundle.notes}
