"""The rules of format immutable/1 for single things: signatures, notes, entries, archives, indexes.

Written from docs/format.md and the C2SP signed-note rules alone. Nothing here knows a log directory;
immutable_verify.py does. What the document does not allow raises Refuse.
"""
from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import os
import re
import struct
import subprocess
from dataclasses import dataclass

import immutable_mldsa

GROUP = 256
SEARCH_PAGE = 4096  # bytes of a page of an sdx file; the last is shorter
MAX_LINE = 65_535            # bytes of an entry line without its newline
MAX_BATCH = 16 << 20         # bytes of a batch with its commit line
MAX_BATCH_ENTRIES = 65_536
MAX_NOTE = 64 << 10
MAX_SIGNATURES = 16
MAX_DEPTH = 128
MAX_PENDING = 4
I64_MIN, I64_MAX = -(1 << 63), (1 << 63) - 1
LEVELS = ("INFO", "WARN", "ERROR", "CRITICAL", "AUDIT", "SECURITY", "REVENUE", "SYSTEM")


class Refuse(Exception):
    """Bytes that the document does not allow."""

    def __init__(self, what, got="", want=""):
        super().__init__(what)
        self.what, self.got, self.want = what, show(got), show(want)


class CannotRun(Exception):
    """Wrong arguments or a missing program: nothing was decided about the log."""


def show(value, limit=200):
    """Short and printable: what an attacker wrote must not move a terminal's cursor."""
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value[:limit + 1]).decode("utf-8", "backslashreplace")
    value = str(value)
    value = value if len(value) <= limit else value[:limit] + "…"
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)


def sha256(data):
    return hashlib.sha256(data).digest()


def b64(data):
    return base64.b64encode(data).decode("ascii")


def unbase64(text, length=None):
    """Strict: standard alphabet, padded, padding bits zero, hence one spelling per value."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refuse("not base64", text, "RFC 4648 base64 with padding") from None
    if b64(data) != text:
        raise Refuse("base64 in another spelling", text, b64(data))
    if length is not None and len(data) != length:
        raise Refuse("base64 of a wrong length", f"{len(data)} bytes", f"{length} bytes")
    return data


DECIMAL = r"(0|[1-9][0-9]{0,19})"

# --- Ed25519, RFC 8032 ------------------------------------------------------------------------------
# Verification only, so nothing here is secret and nothing needs constant time.

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def point_decode(data):
    """Extended coordinates of an encoded point, or None. y >= p and "minus zero" are refused."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P) % P, (P - 5) // 8, P) % P
    if v * x * x % P == P - u or (u == 0 and x == 0):
        x = x * SQRT_M1 % P
    if v * x * x % P != u:
        return None
    if x == 0 and sign:
        return None
    if x & 1 != sign:
        x = P - x
    return (x, y, 1, x * y % P)


def point_encode(point):
    x, y, z, _ = point
    inverse = pow(z, P - 2, P)
    x, y = x * inverse % P, y * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def point_add(p, q):
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def point_double(p):
    a, b = p[0] * p[0] % P, p[1] * p[1] % P
    h = a + b
    e = h - (p[0] + p[1]) * (p[0] + p[1]) % P
    g = a - b
    f = 2 * p[2] * p[2] % P + g
    return (e * f % P, g * h % P, f * g % P, e * h % P)


IDENTITY = (0, 1, 1, 0)
BASE = point_decode((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


@functools.lru_cache(maxsize=4096)
def ed25519_verify(public, message, signature):
    """Without cofactor: the encoding of [S]B - [k]A must be the bytes of R, so R has one encoding too."""
    if len(public) != 32 or len(signature) != 64:
        return False
    a = point_decode(public)
    s = int.from_bytes(signature[32:], "little")
    if a is None or s >= ORDER:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % ORDER
    minus_a = (P - a[0], a[1], 1, P - a[3])
    table = (None, BASE, minus_a, point_add(BASE, minus_a))
    total = IDENTITY
    for bit in range(252, -1, -1):
        total = point_double(total)
        term = table[(s >> bit & 1) | (k >> bit & 1) << 1]
        if term is not None:
            total = point_add(total, term)
    return point_encode(total) == signature[:32]


# --- Keys and notes ---------------------------------------------------------------------------------

ED25519, COSIGNATURE, MLDSA44 = 0x01, 0x04, 0x06
KEY_BYTES = {ED25519: 32, COSIGNATURE: 32, MLDSA44: immutable_mldsa.PUBLIC_KEY_BYTES}


@dataclass(frozen=True)
class Key:
    vkey: str
    name: str
    id: bytes
    kind: int
    public: bytes

    def signed(self, body, blob):
        """Is blob, a signature line without its key id, this key's signature of a note with these text lines?"""
        text = "".join(line + "\n" for line in body).encode()
        if self.kind == ED25519:
            return ed25519_verify(self.public, text, blob)
        time, blob = blob[:8], blob[8:]
        if len(time) < 8:
            return False
        if self.kind == COSIGNATURE:
            text = b"cosignature/v1\ntime %d\n" % int.from_bytes(time, "big") + text
            return ed25519_verify(self.public, text, blob)
        origin, size, root = checkpoint_lines(body)
        message = b"subtree/v1\n\0"
        for name in (self.name.encode(), origin.encode()):
            message += bytes([len(name)]) + name + time
            time = b""
        return mldsa44_verify(self.public, message + struct.pack(">QQ", 0, size) + root, blob)


@functools.lru_cache(maxsize=4096)
def mldsa44_verify(public, message, signature):
    return immutable_mldsa.verify(public, message, signature)


def check_key_name(name):
    if len(name.encode()) > 255:
        raise Refuse("key name is too long", f"{len(name.encode())} bytes", "at most 255")


def parse_vkey(vkey):
    match = re.fullmatch(r"([^\s+\x00-\x1f\x7f]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)", vkey)
    if not match:
        raise Refuse("not a verifier key", vkey, "<name>+<8 hex>+<base64>")
    name, keyid, body = match[1], bytes.fromhex(match[2]), unbase64(match[3])
    check_key_name(name)
    if KEY_BYTES.get(body[0] if body else None) != len(body) - 1:
        raise Refuse("verifier key of another type or length", body[:1].hex(), "01 or 04 and 32 bytes (Ed25519), 06 and 1312 bytes (ML-DSA-44)")
    want = sha256(name.encode() + b"\n" + body)[:4]
    if keyid != want:
        raise Refuse("verifier key's id does not belong to it", keyid.hex(), want.hex())
    if body[0] != MLDSA44 and point_decode(body[1:]) is None:
        raise Refuse("verifier key is not the encoding of a point", body[1:].hex(), "a canonical point (RFC 8032)")
    return Key(vkey, name, keyid, body[0], body[1:])


def open_note(data, keys, text_lines):
    """(text lines, keys that signed). Without keys a note is its text and the empty line only."""
    if len(data) > MAX_NOTE:
        raise Refuse("note is too long", f"{len(data)} bytes", f"at most {MAX_NOTE}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refuse("note is not UTF-8", data, "UTF-8") from None
    if re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text):
        raise Refuse("note has a control character", data, "none but newline")
    lines = text.split("\n")
    if lines.pop() != "":
        raise Refuse("note does not end with a newline", data[-40:], "newline")
    if len(lines) <= text_lines or "" in lines[:text_lines] or lines[text_lines] != "":
        raise Refuse("note does not have its text lines and an empty line", data, f"{text_lines} lines, then an empty one")
    body, signatures = lines[:text_lines], lines[text_lines + 1:]
    if not keys:
        if signatures:
            raise Refuse("signature in a log without verifier keys", signatures[0], "text and empty line only")
        return body, []
    if not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise Refuse("number of signature lines", len(signatures), f"1 to {MAX_SIGNATURES}")
    good = []
    for line in signatures:
        match = re.fullmatch(r"\u2014 ([^\s+]+) ([A-Za-z0-9+/=]+)", line)
        if not match:
            raise Refuse("malformed signature line", line, "— <name> <base64>")
        check_key_name(match[1])
        blob = unbase64(match[2])
        if len(blob) < 5:
            raise Refuse("signature is too short", match[2], "4-byte key id and a signature")
        for key in keys:
            if key.name == match[1] and key.id == blob[:4]:
                if not key.signed(body, blob[4:]):
                    raise Refuse("bad signature by a known key", match[2], f"a signature by {key.vkey}")
                good.append(key)
    if not good:
        raise Refuse("no signature by a known key of the log", signatures[0], keys[0].vkey)
    return body, good


def checkpoint_lines(body):
    """(origin, size, root) of a checkpoint's three text lines."""
    if len(body) != 3:
        raise Refuse("not a checkpoint", f"{len(body)} lines", "origin, size and root")
    if not re.fullmatch(DECIMAL, body[1]) or int(body[1]) > I64_MAX:
        raise Refuse("checkpoint's size is not a decimal number", body[1], "decimal without leading zero, at most 2^63 - 1")
    return body[0], int(body[1]), unbase64(body[2], 32)


@dataclass(frozen=True)
class Checkpoint:
    size: int
    root: bytes
    signers: tuple
    note: bytes


def open_checkpoint(data, origin, keys):
    body, signers = open_note(data, keys, 3)
    name, size, root = checkpoint_lines(body)
    if name != origin:
        raise Refuse("checkpoint of another origin", name, origin)
    return Checkpoint(size, root, tuple(signers), data)


def history_notes(f, length):
    """Yields (offset, note or None for a torn end, bytes) over `checkpoints`, one note in memory."""
    f.seek(0)
    offset = 0
    while offset < length:
        note, empty = b"", 0
        while True:
            line = f.readline(min(MAX_NOTE + 1, length - offset - len(note)))
            if line == b"\n":
                empty += 1
                if empty == 2:
                    break
            note += line
            if not line.endswith(b"\n") or len(note) > MAX_NOTE:
                yield offset, None, note
                return
        yield offset, note, note
        offset += len(note) + 1


# --- JSON inside an entry ---------------------------------------------------------------------------

STRING = re.compile(r'"([^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*)"')
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
ESCAPE = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\(.)")
SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Number(str):
    """A number as it is spelled."""


def unescape(raw):
    if "\\" not in raw:
        return raw

    def one(match):
        if match[1]:
            return chr(0x10000 + (int(match[1], 16) - 0xD800 << 10) + int(match[2], 16) - 0xDC00)
        if match[3]:
            code = int(match[3], 16)
            if 0xD800 <= code <= 0xDFFF:
                raise Refuse("unpaired surrogate escape", match[0], "a pair")
            return chr(code)
        return SHORT.get(match[4], match[4])

    return ESCAPE.sub(one, raw)


def decompose(number):
    """(digits without outer zeros, exponent) of a positive decimal, so that equal values compare equal."""
    mantissa, _, exponent = number.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    sign = -1 if exponent.startswith("-") else 1
    exponent = exponent.lstrip("+-").lstrip("0") or "0"
    if len(exponent) > 8:
        return digits, None
    power = sign * int(exponent) - len(fraction)
    stripped = digits.rstrip("0")
    return stripped, power + len(digits) - len(stripped)


def check_number(spelling):
    positive = spelling.lstrip("-")
    if positive.isdigit() and len(positive) <= 20:
        return
    if not positive.lower().partition("e")[0].strip("0."):
        return  # zero in any spelling
    nearest = float(positive)
    if nearest == 0 or nearest == float("inf") or decompose(positive) != decompose(repr(nearest)):
        raise Refuse("number is not the shortest decimal of its float64", spelling, repr(nearest))


def json_value(text, pos, depth):
    """(value, end). No whitespace is skipped, so any outside a string is refused."""
    char = text[pos:pos + 1]
    if char == '"':
        match = STRING.match(text, pos)
        if not match:
            raise Refuse("malformed string", text[pos:pos + 60], "a JSON string")
        return unescape(match[1]), match.end()
    if char == "{" or char == "[":
        if depth >= MAX_DEPTH:
            raise Refuse("nesting is too deep", depth + 1, f"at most {MAX_DEPTH}")
        return json_members(text, pos, depth + 1, char == "{")
    for word, value in (("true", True), ("false", False), ("null", None)):
        if text.startswith(word, pos):
            return value, pos + len(word)
    match = NUMBER.match(text, pos)
    if not match:
        raise Refuse("not a JSON value", text[pos:pos + 60], "a value without whitespace before it")
    check_number(match[0])
    return Number(match[0]), match.end()


def json_members(text, pos, depth, is_object):
    values, close = ({}, "}") if is_object else ([], "]")
    pos += 1
    if text.startswith(close, pos):
        return values, pos + 1
    while True:
        if is_object:
            match = STRING.match(text, pos)
            if not match or text[match.end():match.end() + 1] != ":":
                raise Refuse("malformed member name", text[pos:pos + 60], 'a string and ":"')
            name = unescape(match[1])
            if name in values:
                raise Refuse("duplicate member name", name, "each name once")
            values[name], pos = json_value(text, match.end() + 1, depth)
        else:
            value, pos = json_value(text, pos, depth)
            values.append(value)
        if text.startswith(close, pos):
            return values, pos + 1
        if not text.startswith(",", pos):
            raise Refuse("malformed object or array", text[pos:pos + 60], f'"," or "{close}"')
        pos += 1


def json_object(text, pos, name):
    if not text.startswith("{", pos):
        raise Refuse(f"{name} is not an object", text[pos:pos + 60], "{")
    return json_value(text, pos, 0)


# --- Entries ----------------------------------------------------------------------------------------

PLAIN = r'[^"\\\x00-\x1f\x7f-\x9f]*'
CANON = rf'"({PLAIN}(?:\\(?:["\\btnfr]|u00(?:0[0-7bef]|1[0-9a-f]|7f|[89][0-9a-f])){PLAIN})*)"'
STAMP = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"
START = re.compile(
    r'\{"id":"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"'
    rf',"timestamp":"({STAMP}\.[0-9]{{9}}Z)","level":"({"|".join(LEVELS)})","message":{CANON},"metadata":')
MIDDLE = re.compile(
    rf',"hostname":{CANON},"pid":{DECIMAL}(?:,"eventTime":"({STAMP}(?:\.[0-9]{{0,8}}[1-9])?Z)")?'
    rf'(?:,"traceId":"([0-9a-f]{{32}})")?(?:,"spanId":"([0-9a-f]{{16}})")?(?:,"idempotencyKey":{CANON})?')
MAX_REASON = 1_024          # bytes of a reason, of who gave it, of a cold directory
MAX_KEPT = 64 << 20         # of the control lines of a leaves file
MAX_LEAVES_HEADER = 70
CONTROL = {
    "recovery": (("head", int), ("size", int), ("file", str), ("sha256", str), ("bytes", int)),
    "clock": (("was", str), ("now", str)),
    "continue": (("origin", str), ("size", int), ("root", str), ("verdict", str), ("checkpoint", str)),
    "epoch": (("epoch", int), ("vkeys", list)),
    "anchor": (("size", int), ("time", str), ("file", str), ("sha256", str)),
    "producer": (("name", str), ("key", str)),
    "producer-end": (("name", str), ("key", str)),
    "hold": (("id", str), ("reason", str), ("by", str)),
    "release": (("id", str), ("reason", str), ("by", str)),
    "retire": (("first", int), ("end", int), ("archive", str), ("bytes", int), ("seal", str), ("leaves", str),
               ("cold", str), ("reason", str), ("by", str)),
    "restore": (("first", int), ("entry", int), ("reason", str), ("by", str)),
    "import": (("format", str), ("blocks", int), ("head", str), ("broken", int)),
}


@functools.lru_cache(maxsize=64)
def day_number(text):
    """Days since 1970-01-01 of YYYY-MM-DD in the proleptic Gregorian calendar, which has a year 0."""
    year, month, day = int(text[:4]), int(text[5:7]), int(text[8:])
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    lengths = (31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    if not 1 <= month <= 12 or not 1 <= day <= lengths[month - 1]:
        raise Refuse("no such day", text, "a day of the calendar")
    before = year - 1
    return before * 365 + before // 4 - before // 100 + before // 400 + sum(lengths[:month - 1]) + day - 719_163


def nanoseconds(text):
    """Unix time of a well-formed timestamp or eventTime."""
    hour, minute, second = int(text[11:13]), int(text[14:16]), int(text[17:19])
    if hour > 23 or minute > 59 or second > 59:
        raise Refuse("no such time of day", text, "00:00:00 to 23:59:59")
    fraction = text[20:-1]
    seconds = day_number(text[:10]) * 86_400 + hour * 3_600 + minute * 60 + second
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0") if fraction else 0)


def check_timestamp(text):
    if not re.fullmatch(rf"{STAMP}\.[0-9]{{9}}Z", text):
        raise Refuse("malformed timestamp", text, "YYYY-MM-DDThh:mm:ss.nnnnnnnnnZ")
    if not "1970" <= text[:4] <= "2261":
        raise Refuse("timestamp's year", text[:4], "1970 to 2261")
    return nanoseconds(text)


@dataclass(slots=True)
class Entry:
    timestamp: str
    time: int
    level: str
    event: int | None
    key: bytes | None
    log: dict | None
    producer: tuple | None = None  # key id, counter, signature, signed content


PRODUCER = re.compile(rf'\{{"key":"([0-9a-f]{{16}})","counter":{DECIMAL},"signature":"([A-Za-z0-9+/=]+)"\}}')


def parse_producer(text, pos, start):
    """The member `producer` at pos, and where it ends; its signature covers what stands between level and it."""
    match = PRODUCER.match(text, pos + len(',"producer":'))
    if not match or not 1 <= int(match[2]) <= I64_MAX:
        raise Refuse("producer", text[pos:pos + 80], '{"key":"<16 hex>","counter":N,"signature":"<base64>"}, N from 1')
    signature = unbase64(match[3])
    if len(signature) not in (64, immutable_mldsa.SIGNATURE_BYTES):
        raise Refuse("producer's signature", f"{len(signature)} bytes", f"64 or {immutable_mldsa.SIGNATURE_BYTES}")
    content = "{" + text[start:pos] + "}"
    return (match[1], int(match[2]), signature, content.encode()), match.end()


def parse_entry(line, index):
    """All rules of the section "Entry" that one line alone can show."""
    if len(line) > MAX_LINE:
        raise Refuse("entry line is too long", len(line), f"at most {MAX_LINE}")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refuse(f"entry is not UTF-8 at byte {error.start}", line, "UTF-8") from None
    start = START.match(text)
    if not start:
        raise Refuse("entry does not begin as an entry does", text, "id, timestamp, level, message, metadata")
    ident, timestamp, level = start[1], start[2], start[3]
    time = check_timestamp(timestamp)
    check_id(ident, time, index)
    _, pos = json_object(text, start.end(), "metadata")
    middle = MIDDLE.match(text, pos)
    if not middle:
        raise Refuse("entry does not go on after metadata", text[pos:], "hostname and pid")
    host, pid, event, trace, span, key = middle.groups()
    if len(unescape(host).encode()) > 255:
        raise Refuse("hostname is too long", host, "at most 255 bytes")
    if int(pid) > 0xFFFFFFFF:
        raise Refuse("pid", pid, "0 to 4294967295")
    if trace is not None and not trace.strip("0") or span is not None and not span.strip("0"):
        raise Refuse("traceId or spanId is all zero", trace or span, "not all zero")
    if key is not None:
        key = unescape(key).encode()
        if not 1 <= len(key) <= 256:
            raise Refuse("idempotencyKey's length", len(key), "1 to 256 bytes")
    pos, log, producer = middle.end(), None, None
    if text.startswith(',"producer":', pos):
        producer, pos = parse_producer(text, pos, start.start(3) - len('"level":"'))
        if text[pos:] != "}":
            raise Refuse("entry with a producer does not end after it", text[pos:], "}")
    for name in ("blob", "encrypted", "log"):
        if text.startswith(f',"{name}":', pos):
            value, pos = json_object(text, pos + len(name) + 4, name)
            log = value if name == "log" else None
    if text[pos:] != "}":
        raise Refuse("entry does not end here", text[pos:], "the next member in the document's order, or }")
    if log is not None:
        check_control(log, level, index)
    return Entry(timestamp, time, level, nanoseconds(event) if event else None, key, log, producer)


def check_id(ident, time, index):
    """UUIDv7 whose bits say the same as timestamp and index. The 42 bits of the session are free."""
    want = f"{time // 1_000_000:012x}"
    if ident[:8] + ident[9:13] != want:
        raise Refuse("id's milliseconds are not the timestamp's", ident[:13], f"{want[:8]}-{want[8:]}")
    if ident[14] != "7" or ident[19] not in "89ab":
        raise Refuse("id's version or variant", ident, "version 7, variant bits 10")
    want = f"{index % 2**32:08x}"
    if ident[-8:] != want:
        raise Refuse("id's low 32 bits are not the index", ident[-8:], want)


def check_control(log, level, index):
    """The member `log`, as far as the line alone shows. Unknown types are well-formed."""
    kind = log.get("type")
    if next(iter(log), None) != "type" or type(kind) is not str:
        raise Refuse("log's first member is not a type", list(log), "type, a string")
    if level != "SYSTEM":
        raise Refuse("control entry's level", level, "SYSTEM")
    if kind not in CONTROL:
        return
    names = ["type"] + [name for name, _ in CONTROL[kind]]
    if list(log) != names:
        raise Refuse(f"members of a {kind} entry", list(log), names)
    for name, kind_of in CONTROL[kind]:
        if kind_of is int:
            good = type(log[name]) is Number and re.fullmatch(DECIMAL, log[name])
        elif kind_of is list:
            good = type(log[name]) is list and [type(v) for v in log[name]] == [str, str]
        else:
            good = type(log[name]) is str
        if not good:
            want = {int: "a decimal number", str: "a string", list: "two strings"}[kind_of]
            raise Refuse(f"{kind} entry's {name}", log[name], want)
    if kind == "recovery":
        if int(log["size"]) != index or int(log["head"]) > index:
            raise Refuse("recovery entry's head and size", f"{log['head']}, {log['size']}", f"at most {index}, {index}")
        if not is_hex(log["sha256"]) or not re.fullmatch(rf"quarantine/{DECIMAL}-{log['sha256']}", log["file"]):
            raise Refuse("recovery entry's file", log["file"], "quarantine/<offset>-<sha256>")
        if not 1 <= int(log["bytes"]) <= MAX_BATCH:
            raise Refuse("recovery entry's bytes", log["bytes"], f"1 to {MAX_BATCH}")
    if kind == "continue":
        check_continue(log)
    if kind == "anchor":
        check_timestamp(log["time"])
        if int(log["size"]) > index:
            raise Refuse("anchor entry's size", log["size"], f"at most {index}")
        if not is_hex(log["sha256"]) or not re.fullmatch(rf"evidence/{int(log['size']):020d}(\.note|-{DECIMAL}\.tsr)", log["file"]):
            raise Refuse("anchor entry's file", log["file"], "evidence/<size>.note or evidence/<size>-<n>.tsr")
        if log["file"].endswith(".tsr") and int(log["file"].rpartition("-")[2][:-4]) >= 1 << 31:
            raise Refuse("anchor entry's file", log["file"], "n below 2^31")
    if kind in ("hold", "release", "retire", "restore"):
        check_retention(kind, log)
    if kind in ("producer", "producer-end"):
        parse_producer_key(log["key"], log["name"])
    if kind == "import" and log["format"] != "blockchain":
        raise Refuse("import entry's format", log["format"], "blockchain")


def check_retention(kind, log):
    for name in ("reason", "by", "cold"):
        if len(log.get(name, "").encode("utf-8", "surrogatepass")) > MAX_REASON:
            raise Refuse(f"{kind} entry's {name}", f"{len(log[name])} characters", f"at most {MAX_REASON} bytes")
    if kind in ("hold", "release") and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", log["id"]):
        raise Refuse(f"{kind} entry's id", log["id"], "1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first")
    if kind == "retire":
        for name in ("archive", "seal", "leaves"):
            if not is_hex(log[name]):
                raise Refuse(f"retire entry's {name}", log[name], "64 hex digits")


def leaves_header(f, size):
    """first, end and the offset of the hashes of a leaves file."""
    f.seek(0)
    head = f.read(MAX_LEAVES_HEADER)
    match = re.match(rf'\{{"retired":\{{"first":{DECIMAL},"end":{DECIMAL}\}}\}}\n'.encode(), head)
    if not match:
        raise At(0, Refuse("first line of a leaves file", head, '{"retired":{"first":F,"end":E}}'))
    first, end = int(match[1]), int(match[2])
    if first % GROUP or end % GROUP or end <= first or end > I64_MAX or (end - first) // GROUP > 1 << 24:
        raise At(0, Refuse("range of a leaves file", f"{first} to {end}", "1 to 2^24 whole groups"))
    if size < match.end() + 32 * (end - first):
        raise At(size, Refuse("leaves file ends within its hashes", size, f"at least {match.end() + 32 * (end - first)}"))
    return first, end, match.end()


def kept_lines(f, size, first, end, start):
    """{index: (offset, line)} of the control entries that stand behind the hashes of a leaves file."""
    kept, at, least = {}, start + 32 * (end - first), first
    if size - at > MAX_KEPT:
        raise At(at, Refuse("control lines of a leaves file", f"{size - at} bytes", f"at most {MAX_KEPT}"))
    f.seek(at)
    text = f.read(size - at)
    for line in text.split(b"\n")[:-1]:
        match = re.match(rf"{DECIMAL} ".encode(), line)
        if not match or not least <= int(match[1]) < end:
            raise At(at, Refuse("index of a control line", line[:20], f"{least} to {end - 1}"))
        least = int(match[1]) + 1
        kept[int(match[1])] = at, line[match.end():]
        at += len(line) + 1
    if at != size:
        raise At(at, Refuse("a control line has no end", text[-40:], "a newline"))
    return kept


@dataclass(frozen=True)
class ProducerKey:
    id: str
    name: str
    algorithm: str
    public: bytes

    def signed(self, message, signature):
        if self.algorithm == "ed25519":
            return ed25519_verify(self.public, message, signature)
        return immutable_mldsa.verify(self.public, message, signature)


def parse_producer_key(text, name):
    match = re.fullmatch(r"([^\s+\x00-\x1f\x7f]{1,255})\+(ed25519|ml-dsa-44)\+([A-Za-z0-9+/=]+)", text)
    if not match or match[1] != name:
        raise Refuse("producer's key", text, f"{name}+ed25519 or ml-dsa-44+<base64>")
    public = unbase64(match[3], 32 if match[2] == "ed25519" else immutable_mldsa.PUBLIC_KEY_BYTES)
    if match[2] == "ed25519" and point_decode(public) is None:
        raise Refuse("producer's key is not the encoding of a point", public.hex(), "a canonical point (RFC 8032)")
    return ProducerKey(sha256(text.encode())[:8].hex(), name, match[2], public)


def check_continue(log):
    """The checkpoint is of the state that the entry names, or of an earlier one."""
    root = unbase64(log["root"], 32)
    if log["verdict"] not in ("refuted", "unknown", "proven", "consistent"):
        raise Refuse("continue entry's verdict", log["verdict"], "refuted, unknown, proven or consistent")
    lines = log["checkpoint"].partition("\n\n")[0].split("\n")
    if len(lines) != 3 or "\n\n" not in log["checkpoint"] or not re.fullmatch(DECIMAL, lines[1]):
        raise Refuse("continue entry's checkpoint", log["checkpoint"], "a note")
    size = int(lines[1])
    if lines[0] != log["origin"] or size > int(log["size"]) or (unbase64(lines[2], 32) != root and size == int(log["size"])):
        raise Refuse("continue entry's checkpoint", " ".join(lines), f"{log['origin']} {log['size']} {log['root']}, or an earlier state")


def is_hex(text):
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


# --- Lines that the log writes between entries ------------------------------------------------------

def segment_line(first, chain):
    return b'{"segment":{"first":%d,"chain":"%s"}}\n' % (first, chain.hex().encode())


def commit_line(start, size, chain, root):
    return b'{"commit":{"from":%d,"size":%d,"chain":"%s","root":"%s"}}\n' % (start, size, chain.hex().encode(), b64(root).encode())


class Position:
    """Everything that the entries before `size` decide: chain, Merkle frontier, last timestamp.

    `stack` holds the roots of the full subtrees of `size` from the largest to the smallest. `restart` is
    the Position at the last group boundary and `leaves` the leaves after it, because the next segment
    begins at that boundary and repeats them. `quiet` suppresses comparisons for a second reading.
    """
    __slots__ = ("size", "chain", "stack", "timestamp", "target", "restart", "leaves", "quiet")

    def __init__(self):
        self.size, self.chain, self.stack, self.timestamp, self.target = 0, bytes(32), [], "", 0
        self.restart, self.leaves, self.quiet = None, [], False

    def copy(self):
        other = Position.__new__(Position)
        other.size, other.chain, other.stack = self.size, self.chain, self.stack.copy()
        other.timestamp, other.target = self.timestamp, self.target
        other.restart, other.leaves, other.quiet = self.restart, self.leaves.copy(), self.quiet
        return other

    def boundary(self):
        """To be called at a group boundary: from here the next segment may begin."""
        self.restart, self.leaves = None, []
        self.restart = self.copy()

    def restart_here(self):
        pos = self.restart.copy()
        pos.boundary()
        return pos

    def push(self, leaf):
        """Appends a leaf; yields (height, number, root) of every subtree that it completes."""
        node, height, count = leaf, 0, self.size
        while count & 1:
            node = sha256(b"\x01" + self.stack.pop() + node)
            height, count = height + 1, count >> 1
            yield height, self.size >> height, node
        self.stack.append(node)
        self.chain = sha256(b"\x02" + self.chain + leaf)
        self.size += 1
        self.leaves.append(leaf)

    def root(self):
        if not self.stack:
            return sha256(b"")
        node = self.stack[-1]
        for left in self.stack[-2::-1]:
            node = sha256(b"\x01" + left + node)
        return node


# --- Archives ---------------------------------------------------------------------------------------

def archive_frames(f, size):
    """[(offset, compressed length, content length)] of the data frames; the seek table must equal them."""
    frames, offset = [], 0
    while True:
        f.seek(offset)
        head = f.read(13)
        if head[:4] == b"\x5e\x2a\x4d\x18":
            break
        if head[:4] != b"\x28\xb5\x2f\xfd" or len(head) < 6:
            raise At(offset, Refuse("neither a zstd frame nor the seek table", head[:4].hex(), "28b52ffd or 5e2a4d18"))
        descriptor = head[4]
        if descriptor & 0b00111111 != 0b00100100:
            raise At(offset + 4, Refuse("frame header descriptor", f"{descriptor:08b}",
                                        "xx100100: single segment, checksum, no dictionary, unused and reserved bits 0"))
        width = 1 << (descriptor >> 6)
        content = int.from_bytes(head[5:5 + width], "little") + (256 if width == 2 else 0)
        shortest = 1 if content < 256 else 2 if content < 65_792 else 4 if content < 1 << 32 else 8
        if len(head) < 5 + width or width != shortest or content > GROUP * (MAX_LINE + 1):
            raise At(offset + 5, Refuse("frame content size", f"{content} in {width} bytes",
                                        f"in {shortest} bytes, at most {GROUP * (MAX_LINE + 1)}"))
        end, last = offset + 5 + width, False
        while not last:
            f.seek(end)
            block = f.read(3)
            value = int.from_bytes(block, "little")
            last, kind, length = value & 1, value >> 1 & 3, value >> 3
            if len(block) < 3 or kind == 3:
                raise At(end, Refuse("zstd block header", block.hex(), "3 bytes, block type 0, 1 or 2"))
            end += 3 + (1 if kind == 1 else length)
        end += 4
        if end > size:
            raise At(offset, Refuse("zstd frame goes beyond the file", end, f"at most {size}"))
        frames.append((offset, end - offset, content))
        offset = end
    table = struct.pack("<II", 0x184D2A5E, 8 * len(frames) + 9)
    table += b"".join(struct.pack("<II", packed, content) for _, packed, content in frames)
    table += struct.pack("<IBI", len(frames), 0, 0x8F92EAB1)
    f.seek(offset)
    got = f.read(len(table) + 1)
    if got != table:
        place = next((i for i, (a, b) in enumerate(zip(got, table)) if a != b), min(len(got), len(table)))
        raise At(offset + place, Refuse("seek table is not the frames', or is not the end of the file",
                                        got[place:place + 16].hex(), table[place:place + 16].hex()))
    if len(frames) < 3:
        raise At(0, Refuse("number of data frames", len(frames), "at least 3: segment line, one group, commit line"))
    return frames


class At(Exception):
    """A Refuse at an offset of a file, perhaps with an index."""

    def __init__(self, offset, refuse, index=None):
        super().__init__(refuse.what)
        self.offset, self.refuse, self.index = offset, refuse, index


class Decoder:
    """`zstd -dc` over an open file. It checks the content checksums; its words say what it found."""

    def __init__(self, f):
        os.lseek(f.fileno(), 0, os.SEEK_SET)
        try:
            self.process = subprocess.Popen(["zstd", "-dcq"], stdin=f, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            raise CannotRun(f"cannot start zstd, which reads the archives: {error}") from None
        self.out = self.process.stdout

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.stdout.close()
        self.process.stderr.close()
        self.process.wait()

    def finish(self):
        """Refuses anything after what was read, and any complaint of zstd."""
        rest = self.out.read(1)
        words = b"" if rest else self.words()
        if rest or self.process.wait() != 0:
            raise Refuse("zstd does not decode the archive", rest or words, "no error and no further content")

    def failed(self, got, want):
        words = self.words() if self.out.read(1) == b"" else b""
        return Refuse("frame does not decode to what belongs there", got + b" " + words if words else got, want)

    def words(self):
        """What zstd said at its end. A zstd that was killed said nothing about the archive."""
        words = self.process.stderr.read(4096)
        if self.process.wait() < 0:
            raise CannotRun(f"zstd was ended by signal {-self.process.returncode}")
        return words


# --- The derived index ------------------------------------------------------------------------------

class IndexBuilder:
    """The bytes of index/<first>.idx from the entries of the segment."""

    def __init__(self, first):
        self.first, self.end, self.groups, self.keys = first, first, bytearray(), bytearray()
        self.fresh()

    def fresh(self):
        self.times, self.events, self.levels = [I64_MAX, I64_MIN], [I64_MAX, I64_MIN], [0] * 8

    def add(self, entry):
        widen(self.times, entry.time)
        if entry.event is not None:
            widen(self.events, min(max(entry.event, I64_MIN), I64_MAX))
        self.levels[LEVELS.index(entry.level)] += 1
        if entry.key is not None:
            self.keys += sha256(entry.key)[:16] + struct.pack("<Iq", self.end - self.first, entry.time)
        self.end += 1
        if self.end % GROUP == 0:
            self.groups += struct.pack("<4q8H", *self.times, *self.events, *self.levels)
            self.fresh()

    def content(self):
        head = struct.pack("<QQII", self.first, self.end, len(self.groups) // 48, len(self.keys) // 28)
        return b"immutable/index/1\n" + head + self.groups + self.keys


def widen(span, value):
    span[0], span[1] = min(span[0], value), max(span[1], value)


