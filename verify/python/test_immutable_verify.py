"""Builds small logs with a writer written from docs/format.md and checks that tampering is refuted.

    python3 -m unittest test_immutable_verify            every 199th byte of the long files is flipped
    IMMUTABLE_FLIP_ALL=1 python3 -m unittest …           every byte of every file
"""
import base64
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

import immutable_format as f
import immutable_verify as v

STRIDE = 1 if os.environ.get("IMMUTABLE_FLIP_ALL") else 199
ORIGIN = "example.org/log"

# --- A second, slow Ed25519 in affine coordinates, for signing --------------------------------------

P, L = f.P, f.ORDER


def add(p, q):
    t = f.D * p[0] * q[0] * p[1] * q[1] % P
    return ((p[0] * q[1] + p[1] * q[0]) * pow(1 + t, -1, P) % P, (p[1] * q[1] + p[0] * q[0]) * pow(1 - t, -1, P) % P)


def multiply(k, point):
    result = (0, 1)
    while k:
        if k & 1:
            result = add(result, point)
        point, k = add(point, point), k >> 1
    return result


def encode(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


B = (15112221349535400772501151409588531511454012693041857206046113283949847762202,
     46316835694926478169428394003475163141307993866256225615783033603165251855960)


def keys_of(seed):
    h = hashlib.sha512(seed).digest()
    a = int.from_bytes(h[:32], "little") & (1 << 254) - 8 | 1 << 254
    return a, h[32:], encode(multiply(a, B))


def sign(seed, message):
    a, prefix, public = keys_of(seed)
    r = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % L
    big_r = encode(multiply(r, B))
    k = int.from_bytes(hashlib.sha512(big_r + public + message).digest(), "little") % L
    return big_r + ((r + k * a) % L).to_bytes(32, "little")


# --- The tiny writer --------------------------------------------------------------------------------

def h(data):
    return hashlib.sha256(data).digest()


def mth(leaves):
    """RFC 6962, as its recursive definition says."""
    if len(leaves) < 2:
        return leaves[0] if leaves else h(b"")
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return h(b"\x01" + mth(leaves[:k]) + mth(leaves[k:]))


def stamp(n):
    return f"2026-07-01T00:{n // 60 % 60:02d}:{n % 60:02d}.{n:09d}Z"


def entry(index, timestamp=None, level="INFO", message="m", metadata="{}", host="h", pid="7", extra="", ident=None):
    timestamp = timestamp or stamp(index)
    if ident is None:
        ms = f.nanoseconds(timestamp) // 1_000_000
        bits = ms << 80 | 7 << 76 | 0xABC << 64 | 2 << 62 | 0x2AAAAAAA << 32 | index % 2**32
        x = f"{bits:032x}"
        ident = f"{x[:8]}-{x[8:12]}-{x[12:16]}-{x[16:20]}-{x[20:]}"
    return (f'{{"id":"{ident}","timestamp":"{timestamp}","level":"{level}","message":"{message}","metadata":{metadata},'
            f'"hostname":"{host}","pid":{pid}{extra}}}').encode()


SIGNATURES = {}


class Log:
    def __init__(self, root, seed=b"\x01" * 32, origin=ORIGIN):
        self.dir, self.state, self.seed, self.origin = Path(root) / "log", Path(root) / "state", seed, origin
        self.lines, self.leaves, self.chains = [], [], [bytes(32)]
        self.history, self.note = b"", b""
        body = b"\x01" + keys_of(seed)[2] if seed else b""
        self.id = h(origin.encode() + b"\n" + body)[:4]
        self.vkey = f"{origin}+{self.id.hex()}+{base64.b64encode(body).decode()}" if seed else ""
        vkeys = f'"{self.vkey}"' if seed else ""
        for name in ("pending", "archive", "index", "tree", "quarantine", "next"):
            (self.dir / name).mkdir(parents=True)
        self.put("log.json", f'{{"format":"immutable/1","origin":"{origin}","created":"{stamp(0)}","vkeys":[{vkeys}]}}\n'.encode())
        self.put("lock", b"")
        self.open_segment(0)
        self.checkpoint()

    def put(self, name, data):
        (self.dir / name).write_bytes(data)

    def get(self, name):
        return (self.dir / name).read_bytes()

    def size(self):
        return len(self.lines)

    def root(self, size=None):
        return mth(self.leaves[:size])

    def open_segment(self, first):
        self.first = first
        self.put("immutable.log", self.segment_line(first) + (self.commit(first, self.size()) if first < self.size() else b""))

    def segment_line(self, first):
        return f'{{"segment":{{"first":{first},"chain":"{self.chains[first].hex()}"}}}}\n'.encode()

    def commit_line(self, start, size):
        root = base64.b64encode(self.root(size)).decode()
        return f'{{"commit":{{"from":{start},"size":{size},"chain":"{self.chains[size].hex()}","root":"{root}"}}}}\n'.encode()

    def commit(self, start, end):
        return b"".join(line + b"\n" for line in self.lines[start:end]) + self.commit_line(start, end)

    def add(self, line):
        self.lines.append(line)
        self.leaves.append(h(b"\x00" + line))
        self.chains.append(h(b"\x02" + self.chains[-1] + self.leaves[-1]))

    def batch(self, *lines):
        start = self.size()
        for line in lines:
            self.add(line)
        self.put("immutable.log", self.get("immutable.log") + self.commit(start, self.size()))

    def entries(self, n, **fields):
        self.batch(*[entry(self.size() + i, **fields) for i in range(n)])

    def signed(self, text, lines_after=b""):
        if not self.seed:
            return text + b"\n"
        signature = SIGNATURES.setdefault((self.seed, text), None) or sign(self.seed, text)
        SIGNATURES[self.seed, text] = signature
        blob = base64.b64encode(self.id + signature).decode()
        return text + f"\n\u2014 {self.origin} {blob}\n".encode() + lines_after

    def make_note(self, size=None):
        size = self.size() if size is None else size
        return self.signed(f"{self.origin}\n{size}\n{base64.b64encode(self.root(size)).decode()}\n".encode())

    def tree(self):
        groups = self.size() // 256
        level = [mth(self.leaves[256 * k:256 * k + 256]) for k in range(groups)]
        if groups:
            self.put("tree/1", b"".join(level))
            self.put("chain", b"".join(self.chains[256 * k + 256] for k in range(groups)))

    def checkpoint(self, keep=True, size=None):
        self.tree()
        self.note = self.make_note(size)
        if keep and not self.history.endswith(self.note + b"\n"):
            self.history += self.note + b"\n"
        self.put("checkpoints", self.history)
        self.put("checkpoint", self.note)

    def head(self, clean, size=None, inode=None):
        size = self.size() if size is None else size
        folder = self.state / hashlib.sha256(self.origin.encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        inode = os.stat(self.dir / "log.json").st_ino if inode is None else inode
        root = base64.b64encode(self.root(size)).decode()
        (folder / "head").write_text(
            f'{{"origin":"{self.origin}","vkey":"{self.vkey}","log":"{h(self.get("log.json")).hex()}","inode":{inode},'
            f'"size":{size},"root":"{root}","kept":{len(self.history)},"clean":{"true" if clean else "false"}}}\n')
        return folder / "head"

    def close(self):
        self.checkpoint()
        return self.head(True)

    def rotate(self):
        os.link(self.dir / "immutable.log", self.dir / f"pending/{self.first:020d}.jsonl")
        os.unlink(self.dir / "immutable.log")
        self.open_segment(self.size() - self.size() % 256)

    def archive(self, first, end):
        frames = [self.segment_line(first)]
        frames += [b"".join(line + b"\n" for line in self.lines[k:k + 256]) for k in range(first, end, 256)]
        frames += [self.commit_line(first, end)]
        packed = [compress(frame) for frame in frames]
        table = b"".join(struct.pack("<II", len(p), len(f)) for p, f in zip(packed, frames))
        table += struct.pack("<IBI", len(frames), 0, 0x8F92EAB1)
        self.put(f"archive/{first:020d}.jsonl.zst", b"".join(packed) + struct.pack("<II", 0x184D2A5E, len(table)) + table)

    def index(self, first, end):
        """Levels, times and keys from the lines, by way of json and no code of the verifier but its clock."""
        groups = keys = b""
        for start in range(first, end, 256):
            found = [json.loads(line) for line in self.lines[start:start + 256]]
            times = [f.nanoseconds(e["timestamp"]) for e in found]
            events = [f.nanoseconds(e["eventTime"]) for e in found if "eventTime" in e]
            groups += struct.pack("<4q", min(times), max(times), min(events, default=2**63 - 1), max(events, default=-2**63))
            groups += struct.pack("<8H", *[sum(e["level"] == level for e in found) for level in f.LEVELS])
            for i, e in enumerate(found):
                if "idempotencyKey" in e:
                    keys += h(e["idempotencyKey"].encode())[:16] + struct.pack("<Iq", start + i - first, times[i])
        head = b"immutable/index/1\n" + struct.pack("<QQII", first, end, len(groups) // 48, len(keys) // 28)
        self.put(f"index/{first:020d}.idx", head + groups + keys)

    def seal(self, first, end):
        self.archive(first, end)
        self.index(first, end)
        a, i = self.get(f"archive/{first:020d}.jsonl.zst"), self.get(f"index/{first:020d}.idx")
        text = f"immutable/seal/1\n{self.origin}\n{first} {end}\n{h(a).hex()} {len(a)}\n{h(i).hex()} {len(i)}\n"
        self.put(f"index/{first:020d}.seal", self.signed(text.encode()))
        os.unlink(self.dir / f"pending/{first:020d}.jsonl")

    def verify(self, state=True, key=False, evidence=(), indexes=True):
        pins = [f.parse_vkey(self.vkey)] if key is True else [key] if key else []
        return v.verify(str(self.dir), str(self.state) if state else None, pins, evidence, indexes)


PACKED = {}


def compress(data):
    if data not in PACKED:
        PACKED[data] = subprocess.run(["zstd", "-q", "-c", "--check", f"--stream-size={len(data)}"], input=data,
                                      stdout=subprocess.PIPE, check=True).stdout
    return PACKED[data]


class Case(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)

    def new(self, **options):
        root = Path(self.temporary.name) / str(len(os.listdir(self.temporary.name)))
        return Log(root, **options)

    def small(self, **options):
        log = self.new(**options)
        log.entries(1)
        log.entries(3)
        log.checkpoint()
        log.entries(2, extra=',"eventTime":"2026-01-01T00:00:00.5Z","idempotencyKey":"k"')
        log.close()
        return log

    def sealed(self, **options):
        """Two sealed segments and an open one, closed cleanly."""
        log = self.new(**options)
        log.entries(200, extra=',"eventTime":"2026-01-01T00:00:00.5Z","idempotencyKey":"k\\""')
        log.entries(60)
        log.rotate()
        log.checkpoint(size=256)
        log.seal(0, 256)
        log.entries(256, level="AUDIT")
        log.rotate()
        log.checkpoint(size=512)
        log.seal(256, 512)
        log.entries(2)
        log.close()
        return log

    def waiting(self):
        """One pending segment whose last entries stand again in immutable.log."""
        log = self.new()
        log.entries(100)
        log.entries(160)
        log.rotate()
        log.entries(1)
        log.close()
        return log

    def expect(self, verdict, report, fragment=""):
        self.assertEqual(report["verdict"], verdict, json.dumps(report, indent=1, ensure_ascii=False)[:3000])
        self.assertEqual(bool(report["findings"]), verdict == "refuted")
        self.assertIn(fragment, json.dumps(report, ensure_ascii=False))

    @contextlib.contextmanager
    def changed(self, path, data):
        before = path.read_bytes()
        path.write_bytes(data)   # in place: the inode stays
        yield
        path.write_bytes(before)


class TestEd25519(unittest.TestCase):
    VECTORS = [  # RFC 8032, section 7.1, tests 1 to 3
        ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
         "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
        ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
         "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"),
        ("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
         "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"),
    ]

    def test_vectors(self):
        for public, message, signature in self.VECTORS:
            public, message, signature = map(bytes.fromhex, (public, message, signature))
            self.assertTrue(f.ed25519_verify(public, message, signature))
            self.assertFalse(f.ed25519_verify(public, message + b"x", signature))
            for place in range(64):
                other = bytearray(signature)
                other[place] ^= 1
                self.assertFalse(f.ed25519_verify(public, message, bytes(other)))

    def test_other_spelling_of_s_is_refused(self):
        public, message, signature = map(bytes.fromhex, self.VECTORS[1])
        s = int.from_bytes(signature[32:], "little") + f.ORDER
        self.assertFalse(f.ed25519_verify(public, message, signature[:32] + s.to_bytes(32, "little")))

    def test_points_have_one_encoding(self):
        for y, sign_bit in ((P, 0), (P + 1, 0), (2**255 - 1, 0), (1, 1), (P - 1, 1), (2, 0)):
            self.assertIsNone(f.point_decode((y | sign_bit << 255).to_bytes(32, "little")), (y, sign_bit))
        # R = the identity with y = p + 1: the equation holds, the bytes are not the encoding
        a, _, public = keys_of(b"\x05" * 32)
        for r, good in ((1, True), (P + 1, False)):
            r = r.to_bytes(32, "little")
            k = int.from_bytes(hashlib.sha512(r + public + b"m").digest(), "little") % L
            self.assertIs(f.ed25519_verify(public, b"m", r + (k * a % L).to_bytes(32, "little")), good)

    def test_signer_of_this_test_agrees(self):
        public = keys_of(b"\x07" * 32)[2]
        self.assertTrue(f.ed25519_verify(public, b"hello", sign(b"\x07" * 32, b"hello")))


class TestEntry(unittest.TestCase):
    def good(self, **fields):
        return f.parse_entry(entry(5, **fields), 5)

    def bad(self, **fields):
        with self.assertRaises(f.Refuse, msg=str(fields)[:300]):
            self.good(**fields)

    def test_strings_have_one_spelling(self):
        for text in ("", "é\u2028\U0001F600 /<>&", r"\"\\\b\t\n\f\r", r"\u0000\u001f\u007f\u0080\u009f\u000b"):
            self.good(message=text, host=text, extra=f',"idempotencyKey":"{text}x"')
        for text in (r"\/", r"\u0008", r"\u000a", r"\u001F", r"\u0041", r"\u0022", "\x7f", "\x85", "\x00", "\t", r"\u00a0", r"\ud83d\ude00", "\\", r"\x"):
            self.bad(message=text)
            self.bad(host=text)
            self.bad(extra=f',"idempotencyKey":"{text}"')

    def test_numbers(self):
        good = ("0", "-0", "12345678901234567890", "-99999999999999999999", "0.1", "1e5", "1E+5", "-1.50e-7", "0.0", "0e99999999999999999999",
                "1.7976931348623157e308", "5e-324", "9007199254740992.0", "1e00000000000000000000000000005", "1e21", "100.000e-2",
                "0." + "0" * 400 + "1e401")
        bad = ("01", "1.", ".5", "+1", "1e", "--1", "NaN", "Infinity", "0x1", "123456789012345678901", "1e309", "1e-400", "0.1000000000000000055",
               "9007199254740993.0", "4e-324", "0.30000000000000001", "1e" + "9" * 5000, "٣")
        for number in good:
            self.good(metadata=f'{{"n":{number}}}')
        for number in bad:
            self.bad(metadata=f'{{"n":{number}}}')

    def test_objects(self):
        for text in ('{}', '{"a":1,"b":[true,false,null,"\\ud83d\\ude00\\/\\u0041"],"":{}}', '{"a":{"a":1}}',
                     '{"a":' + "[" * 127 + "]" * 127 + "}"):
            self.good(metadata=text)
            self.good(extra=f',"blob":{text},"encrypted":{text}')
            self.bad(extra=f',"producer":{text}')
        for text in ('[]', '1', 'null', '{"a":1,"a":2}', '{"a":1,"\\u0061":2}', '{"a": 1}', '{ }', '{"a":1 }', '{"a":1,}', '{"a":"\\ud83d"}',
                     '{"\\ude00":1}', '{"a":"\\ud83dx\\ude00"}', '{"a":"\t"}', '{"a":"\\x"}', "{'a':1}", '{"a":tru}', '{"a":1', '{"a"}', '{a:1}',
                     '{"a":' + "[" * 128 + "]" * 128 + "}", '{"a":"\\u12"}'):
            self.bad(metadata=text)

    def test_producer(self):
        good = ',"producer":{"key":"0123456789abcdef","counter":1,"signature":"' + "A" * 86 + '=="}'
        entry = self.good(extra=good)
        ident, counter, signature, content = entry.producer
        self.assertEqual((ident, counter, signature), ("0123456789abcdef", 1, bytes(64)))
        self.assertTrue(content.startswith(b'{"level":"') and content.endswith(b"}") and b"producer" not in content and b"timestamp" not in content)
        for bad in (good.replace("cdef", "cdeF"), good.replace(":1,", ":0,"), good.replace(":1,", ":01,"), good.replace(":1,", f":{1 << 63},"),
                    good.replace("==", "="), good.replace("A==", "B=="), good[:-1] + ',"x":1}', good + ',"blob":{}', good + ',"log":{"type":"x"}'):
            self.bad(extra=bad)

    def test_members(self):
        for extra in (',"eventTime":"0000-02-29T00:00:00Z"', ',"eventTime":"9999-12-31T23:59:59.999999999Z"', f',"traceId":"{"0" * 31}1"',
                      f',"traceId":"{"a" * 32}","spanId":"{"b" * 16}","idempotencyKey":"{"é" * 128}"', ',"blob":{},"encrypted":{}'):
            self.good(extra=extra)
        for extra in (',"eventTime":"2026-02-29T00:00:00Z"', ',"eventTime":"2026-01-01T00:00:60Z"', ',"eventTime":"2026-01-01T00:00:00.10Z"',
                      ',"eventTime":"2026-01-01T00:00:00.Z"', ',"eventTime":"2026-01-01T24:00:00Z"', ',"eventTime":"2026-01-01T00:00:00+00:00"',
                      f',"traceId":"{"0" * 32}"', f',"traceId":"{"A" * 32}"', f',"spanId":"{"0" * 16}"', f',"spanId":"{"b" * 16}","traceId":"{"a" * 32}"',
                      ',"idempotencyKey":""', f',"idempotencyKey":"{"é" * 128}x"', ',"encrypted":{},"blob":{}', ',"blob":{},"blob":{}', ',"other":1', ',"log":{}',
                      ',"log":{"a":1,"type":"x"}', ',"log":{"type":1}', ',"log":{"type":"x"}', " "):
            self.bad(extra=extra)
        self.bad(pid="4294967296")
        self.bad(pid="-1")
        self.bad(pid="01")
        self.bad(level="info")
        self.bad(host="é" * 127 + "xx")
        self.good(host="é" * 127 + "x")
        self.good(message="x" * (65_535 - len(entry(5, message=""))))
        self.bad(message="x" * (65_536 - len(entry(5, message=""))))
        for line in (entry(5)[:-1], entry(5) + b" ", b" " + entry(5), entry(5).replace(b'"m"', b'"\xff"'), entry(5).replace(b'"m"', b'"\xed\xa0\x80"'),
                     entry(5).replace(b'"pid":7', b'"pid":7,"pid":7'), entry(5).replace(b'"message":"m",', b"")):
            with self.assertRaises(f.Refuse):
                f.parse_entry(line, 5)

    def test_timestamp(self):
        for text in ("1970-01-01T00:00:00.000000000Z", "2261-12-31T23:59:59.999999999Z", "2024-02-29T12:00:00.000000001Z"):
            self.assertEqual(self.good(timestamp=text).timestamp, text)
        self.assertEqual(f.nanoseconds("2024-02-29T12:00:00.000000001Z"), 1_709_208_000_000_000_001)
        ident = entry(5)[7:43].decode()
        for text in ("1969-12-31T23:59:59.999999999Z", "2262-01-01T00:00:00.000000000Z", "2026-06-31T00:00:00.000000000Z", "2026-06-30T00:00:60.000000000Z",
                     "2026-06-30T00:00:00.00000000Z", "2026-06-30 00:00:00.000000000Z"):
            self.bad(timestamp=text, ident=ident)

    def test_id(self):
        ident = entry(5)[7:43].decode()
        self.good(ident=ident[:15] + "fff" + ident[18:])
        for place, char in ((0, "f"), (12, "f"), (14, "4"), (19, "c"), (19, "7"), (35, "6"), (28, "1"), (20, "G"), (8, "0"), (20, "A")):
            self.bad(ident=ident[:place] + char + ident[place + 1:])
        f.parse_entry(entry(2**32 + 5, timestamp=stamp(5)), 2**32 + 5)
        with self.assertRaises(f.Refuse):
            f.parse_entry(entry(5), 6)

    def test_control(self):
        def log(text, index=5):
            return f.parse_entry(entry(index, level="SYSTEM", extra=f',"log":{text}'), index)
        sha = "ab" * 32
        log('{"type":"something","else":[1]}')
        log(f'{{"type":"recovery","head":4,"size":5,"file":"quarantine/9-{sha}","sha256":"{sha}","bytes":9}}')
        log('{"type":"import","format":"blockchain","blocks":3,"head":"x","broken":0}')
        for text in (f'{{"type":"recovery","head":6,"size":5,"file":"quarantine/9-{sha}","sha256":"{sha}","bytes":9}}',
                     f'{{"type":"recovery","head":4,"size":4,"file":"quarantine/9-{sha}","sha256":"{sha}","bytes":9}}',
                     f'{{"type":"recovery","head":4,"size":5,"file":"../9-{sha}","sha256":"{sha}","bytes":9}}',
                     f'{{"type":"recovery","head":4,"size":5.0,"file":"quarantine/9-{sha}","sha256":"{sha}","bytes":9}}',
                     '{"type":"import","format":"blockchain","blocks":03,"head":"x","broken":0}', '{"type":"clock","now":"","was":""}',
                     '{"type":"clock","was":""}', '{"type":"clock","was":"","now":"","x":1}'):
            with self.assertRaises(f.Refuse, msg=text):
                log(text)


class TestGoodLogs(Case):
    def test_verdicts(self):
        for log in (self.small(), self.sealed(), self.waiting(), self.small(seed=None), self.sealed(seed=None)):
            self.expect("consistent", log.verify(state=False))
            report = log.verify()
            self.expect("proven", report)
            self.assertEqual((report["size"], report["root"], report["basis"]), (log.size(), base64.b64encode(log.root()).decode(), ["head"]))
            self.expect("proven", log.verify(state=False, evidence=[("kept", log.make_note(3))]))
            if log.seed:
                self.expect("proven", log.verify(state=False, key=True))

    def test_empty_log(self):
        log = self.new()
        log.close()
        self.expect("proven", log.verify())
        self.assertEqual(log.verify()["size"], 0)

    def test_second_tree_level(self):
        """65,536 groups are too many for a test; the fold itself is compared with the definition instead."""
        pos, leaves, seen = f.Position(), [h(bytes([i % 256, i // 256])) for i in range(1100)], {}
        for i, leaf in enumerate(leaves):
            for height, number, root in pos.push(leaf):
                seen[height, number] = root
            if i % 17 == 0 or i > 1090:
                self.assertEqual(pos.root(), mth(leaves[:i + 1]))
        for (height, number), root in seen.items():
            self.assertEqual(root, mth(leaves[number << height:number + 1 << height]))

    def test_wrong_key_and_wrong_checkpoint(self):
        log = self.small()
        other = self.new(seed=b"\x02" * 32)
        self.expect("refuted", log.verify(key=f.parse_vkey(other.vkey)), "pinned key")
        other.entries(4, message="other")
        self.expect("refuted", log.verify(evidence=[("kept", other.make_note(3))]), "kept")
        fake = self.small()
        fake.leaves[0] = h(b"another")
        self.expect("refuted", log.verify(evidence=[("kept", fake.make_note(3))]), "root at size 3")
        log.entries(5)
        later = log.make_note()
        self.expect("refuted", self.small().verify(evidence=[("kept", later)]), "more entries")

    def test_key_that_signed_no_entry_proves_none(self):
        log = self.new()
        self.expect("proven", log.verify(state=False, key=True))
        log.batch(entry(0))
        self.expect("consistent", log.verify(state=False, key=True))
        log.checkpoint()
        self.expect("proven", log.verify(state=False, key=True))

    def test_without_vkeys_the_text_alone_counts(self):
        log = self.small(seed=None)
        path = log.dir / "checkpoint"
        with self.changed(path, path.read_bytes() + b"\xe2\x80\x94 a AAAAAAAA\n"):
            self.expect("refuted", log.verify(), "signature")

    def test_control_entries(self):
        log = self.new()
        log.entries(2)
        tail = b"half a batch"
        sha = h(tail).hex()
        log.put(f"quarantine/77-{sha}", tail)
        log.batch(entry(2, level="SYSTEM", extra=f',"log":{{"type":"recovery","head":0,"size":2,"file":"quarantine/77-{sha}","sha256":"{sha}","bytes":12}}'))
        log.batch(entry(3, timestamp=stamp(1), level="SYSTEM", extra=f',"log":{{"type":"clock","was":"{stamp(2)}","now":"{stamp(1)}"}}'))
        log.batch(entry(4, level="SYSTEM", extra=',"log":{"type":"later"}'))
        log.close()
        self.expect("proven", log.verify(), "unknown type later")
        path = log.dir / f"quarantine/77-{sha}"
        with self.changed(path, b"half a batcH"):
            self.expect("refuted", log.verify(), "hash to its name")
        path.unlink()
        self.expect("refuted", log.verify(), "recovery entry names it")

    def test_bad_order_and_bad_entries_in_a_signed_log(self):
        for lines, what in (((entry(0, timestamp=stamp(9)), entry(1)), "decreases"), ((entry(0), entry(2)), "low 32 bits"),
                            ((entry(0, level="SYSTEM", extra=f',"log":{{"type":"clock","was":"{stamp(0)}","now":"{stamp(1)}"}}'),), "clock"),
                            ((entry(0), b'{"id":"x"}'), "does not begin")):
            log = self.new()
            log.batch(*lines)
            log.close()
            self.expect("refuted", log.verify(), what)

    def test_unknown_names(self):
        log = self.sealed()
        log.put("README", b"")
        log.put("next/anything", b"")
        log.put("quarantine/strange", b"")
        self.expect("proven", log.verify(), "README")
        for folder in ("archive", "pending", "index", "tree"):
            path = log.dir / folder / "strange"
            path.write_bytes(b"")
            self.expect("refuted", log.verify(), "strange")
            path.unlink()

    def test_symbolic_links_and_pipes(self):
        log = self.sealed()
        head = next(log.state.rglob("head"))
        for path in [log.dir / name for name in ("archive", "tree", "quarantine", "immutable.log", "log.json")] + [head]:
            aside = path.parent / (path.name + ".aside")
            log.put("quarantine/strange", b"")
            path.rename(aside)
            path.symlink_to(aside)
            with self.subTest(link=path.name):
                self.expect("refuted", log.verify(), "not a")
            path.unlink()
            if aside.is_file():
                os.mkfifo(path)
                with self.subTest(pipe=path.name):
                    self.expect("refuted", log.verify(), "not a")
                path.unlink()
            aside.rename(path)
        self.expect("proven", log.verify())


class TestCrashes(Case):
    def test_incomplete_batch(self):
        log = self.small()
        good = log.get("immutable.log")
        torn = [b"{", entry(6) + b"\n", entry(6) + b"\n" + entry(7) + b"\n" + log.commit_line(5, 6)[:-9], bytes(5000),
                entry(6) + b"\n" + log.commit_line(5, 6)]
        for tail in torn:
            log.put("immutable.log", good + tail)
            log.head(True)
            self.expect("refuted", log.verify())
            log.head(False)
            self.expect("proven", log.verify(), "incomplete batch")
            self.assertEqual(log.verify()["size"], 6)
            self.expect("unknown", log.verify(state=False), "could not tell")
        log.put("immutable.log", good + entry(6) + b"\n" + log.commit_line(5, 6) + b"x")
        self.expect("refuted", log.verify(state=False), "commit line")
        self.expect("refuted", log.verify(), "commit line")
        log.put("immutable.log", good + bytes(f.MAX_BATCH + 1))
        self.expect("refuted", log.verify())

    def test_batch_covered_by_the_head_is_not_incomplete(self):
        log = self.small()
        log.head(False)
        log.put("immutable.log", log.get("immutable.log")[:-3])
        self.expect("refuted", log.verify(), "has no end")
        self.expect("refuted", log.verify(state=False), "more entries")

    def test_checkpoint_older_than_history(self):
        log = self.small()
        log.put("checkpoint", log.make_note(4))
        self.expect("refuted", log.verify(), "older")
        self.expect("unknown", log.verify(state=False), "older")
        log.head(False)
        self.expect("proven", log.verify(), "older")

    def test_torn_history(self):
        log = self.small()
        log.head(False)
        log.entries(1)
        note = log.make_note()
        whole = log.history
        log.head(False)
        log.put("checkpoints", whole + note[:40])
        self.expect("proven", log.verify(), "ends within a note")
        self.expect("unknown", log.verify(state=False))
        log.put("checkpoint", note)   # a note may be kept after it was published
        self.expect("unknown", log.verify(state=False))
        for damaged in (note[:40] + b"x", note[:-10] + bytes([note[-10] ^ 1]) + note[-9:] + b"\n"):
            log.put("checkpoints", whole + damaged)
            self.expect("refuted", log.verify(state=False), "checkpoints")
        start = len(whole)
        sector = start // 512 * 512 + 512 - start
        log.put("checkpoints", whole + note[:20] + bytes(min(sector, len(note) + 1) - 20) + (note + b"\n")[sector:])
        self.expect("unknown", log.verify(state=False))
        log.put("checkpoints", whole + note[:20] + bytes(1) + note[21:] + b"\n")
        self.expect("refuted", log.verify(state=False), "checkpoints")
        log.put("checkpoint", log.make_note(6))
        log.put("checkpoints", whole[:-1])
        self.expect("refuted", log.verify(), "shorter than the head says")
        self.expect("unknown", log.verify(state=False))

    def test_tree_beyond_the_newest_checkpoint(self):
        log = self.new()
        log.entries(2)
        log.checkpoint()
        log.head(False)
        log.entries(260)
        self.expect("proven", log.verify(), "after the newest checkpoint")
        for name in ("tree/1", "chain"):
            log.put(name, b"torn")
            self.expect("proven", log.verify(), "no checkpoint needs")
            self.expect("unknown", log.verify(state=False), name)
            os.unlink(log.dir / name)
        log.tree()
        self.expect("proven", log.verify())
        self.expect("consistent", log.verify(state=False))
        log.put("tree/1", log.get("tree/1") + bytes(33))
        self.expect("proven", log.verify(), "last group")
        self.expect("unknown", log.verify(state=False), "last group")
        log.checkpoint()
        log.put("tree/1", log.get("tree/1") + bytes(1))
        log.head(True)
        self.expect("refuted", log.verify(), "last group")

    def test_rotation_and_sealing_cut_anywhere(self):
        log = self.new()
        log.entries(260)
        log.checkpoint()
        log.head(False)
        pending = log.dir / f"pending/{0:020d}.jsonl"
        os.link(log.dir / "immutable.log", pending)
        self.expect("proven", log.verify(), "rotation began")
        pending.unlink()
        pending.write_bytes(log.get("immutable.log"))
        self.expect("proven", log.verify(), "rotation began")
        pending.unlink()
        log.rotate()
        self.expect("proven", log.verify())
        kept = pending.read_bytes()
        log.archive(0, 256)
        self.expect("proven", log.verify())
        log.history = log.history.replace(log.note + b"\n", b"")
        log.checkpoint(size=256)
        log.checkpoint()
        log.head(False)
        log.index(0, 256)
        self.expect("proven", log.verify(indexes=False), "no seal yet")
        log.seal(0, 256)
        self.expect("proven", log.verify())
        pending.write_bytes(kept)
        self.expect("proven", log.verify())
        for place in range(0, len(kept), max(1, 53 * STRIDE)):
            with self.changed(pending, flip(kept, place)):
                self.expect("refuted", log.verify())

    def test_unreadable_file_is_unknown(self):
        log = self.small()
        before = v.Chain.open
        self.addCleanup(setattr, v.Chain, "open", before)

        def broken(*_):
            raise OSError(5, "input/output error", "checkpoint")
        v.Chain.open = broken
        self.expect("unknown", log.verify(), "input/output error")


    def test_unreadable_names_are_unknown_and_never_missing(self):
        log = self.sealed()
        self.addCleanup(lambda: v.__dict__.pop("open", None))
        for name in ("log.json", "immutable.log", "checkpoint", "checkpoints", "chain", "tree/1", f"archive/{0:020d}.jsonl.zst",
                     f"index/{256:020d}.idx", f"index/{256:020d}.seal"):
            def refuse(path, *arguments, name=name, **options):
                if str(path).endswith(name):
                    raise PermissionError(13, "permission denied", str(path))
                return open(path, *arguments, **options)
            v.open = refuse
            with self.subTest(file=name):
                self.expect("unknown", log.verify(indexes=False), "permission denied")

    def test_names_and_bytes_are_printed_harmlessly(self):
        log = self.small()
        (log.dir / "\x1b[2Jstrange").write_bytes(b"")
        log.put("immutable.log", b"\x1b[2J\n" + log.get("immutable.log"))
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            v.main(["--no-state", str(log.dir)])
        self.assertIn("\\x1b[2Jstrange", out.getvalue())
        self.assertNotIn("\x1b", out.getvalue())


def flip(data, place, bit=0):
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1:]


class TestTampering(Case):
    def files(self, log):
        for path in sorted(log.dir.rglob("*")):
            if path.is_file() and path.name not in ("lock",):
                yield path.relative_to(log.dir).as_posix(), path

    def flip_all(self, log, allowed=lambda name, place: False, **options):
        for name, path in self.files(log):
            data = path.read_bytes()
            step = STRIDE if len(data) > 3000 else 1 if log.size() < 10 else 1 + STRIDE // 16
            places = set(range(random.randrange(min(step, len(data) or 1)), len(data), step))  # a failure names its place
            if name.startswith("archive/"):
                places |= set(range(40)) | set(range(len(data) - 400, len(data)))
            for place in sorted(places):
                with self.changed(path, flip(data, place, place % 8)), self.subTest(file=name, place=place):
                    report = log.verify(**options)
                    if allowed(name, place):
                        self.assertNotEqual(report["verdict"], "refuted")
                    elif name == "checkpoints" and report["verdict"] == "unknown":
                        # Without a head, and only where the last note's size is no longer one that checkpoint covers: a torn note.
                        self.assertEqual(options.get("state"), False)
                        self.assertIn(data[place:place + 1], b"\n0123456789")
                        self.assertLess(data.rindex(b"\n\n" + data.split(b"\n")[0]), place)
                    else:
                        self.expect("refuted", report)

    def test_every_byte_of_a_small_log(self):
        self.flip_all(self.small())

    def test_every_byte_of_a_small_log_without_head(self):
        log = self.small()
        start = log.get("log.json").index(b'"created":"') + 11

        def created(name, place):   # what `created` says is covered by the head only, if it is still a timestamp
            if name != "log.json" or not start <= place < start + 30:
                return False
            try:
                f.check_timestamp(flip(log_json, place, place % 8)[start:start + 30].decode())
                return True
            except (f.Refuse, UnicodeDecodeError):
                return False
        log_json = log.get("log.json")
        self.flip_all(log, created, state=False)

    def test_every_byte_of_a_small_log_without_signatures(self):
        self.flip_all(self.small(seed=None))

    def test_every_byte_of_a_sealed_log(self):
        self.flip_all(self.sealed(), indexes=False)

    def test_every_byte_of_a_pending_segment(self):
        self.flip_all(self.waiting())

    def test_every_byte_of_the_head(self):
        log = self.small()
        path = log.close()
        data = path.read_bytes()
        start = data.index(b'"inode":') + 8
        for place in range(len(data)):
            changed = flip(data, place, place % 8)
            with self.changed(path, changed), self.subTest(place=place):
                report = log.verify()
                if start <= place < data.index(b',"size"') and changed[place:place + 1].isdigit() and report["verdict"] != "refuted":
                    self.expect("proven", report, "is a copy")   # another inode means a copy, which is no contradiction
                else:
                    self.expect("refuted", report)

    def test_every_truncation(self):
        for log in (self.small(), self.sealed()):
            for name, path in self.files(log):
                data = path.read_bytes()
                for length in range(0, len(data), STRIDE if len(data) > 3000 else 1 if log.size() < 10 else 1 + STRIDE // 8):
                    with self.changed(path, data[:length]), self.subTest(file=name, length=length):
                        self.expect("refuted", log.verify())

    def test_every_truncation_without_head(self):
        """Never proven or consistent; what a crash may leave is unknown. One exception: whole notes may be missing
        at the end of `checkpoints`, because not every checkpoint is kept there."""
        log = self.small()
        whole = [log.history.index(note) + len(note) + 1 for note in (log.make_note(0), log.make_note(4))]
        for name, path in self.files(log):
            data = path.read_bytes()
            for length in range(len(data)):
                with self.changed(path, data[:length]), self.subTest(file=name, length=length):
                    verdict = log.verify(state=False)["verdict"]
                    if name == "checkpoints" and length in whole:
                        self.assertEqual(verdict, "consistent")
                        self.expect("refuted", log.verify())
                    else:
                        self.assertIn(verdict, ("refuted", "unknown") if name == "checkpoints" else ("refuted",))

    def test_every_appended_byte(self):
        for log in (self.small(), self.sealed()):
            for name, path in self.files(log):
                for extra in (b"\n", b"\x00", b"x" * 32):
                    with self.changed(path, path.read_bytes() + extra), self.subTest(file=name):
                        self.expect("refuted", log.verify())

    def test_every_deleted_file(self):
        for log in (self.small(), self.sealed(), self.waiting()):
            for name, path in self.files(log):
                aside = path.parent.parent / "aside" if path.parent != log.dir else log.dir / "aside"
                os.rename(path, aside)
                with self.subTest(file=name):
                    self.expect("refuted", log.verify())
                    self.expect("refuted", log.verify(state=False))
                os.rename(aside, path)

    def test_every_exchange_of_two_files(self):
        log = self.sealed()
        files = list(self.files(log))
        for i, (name_a, a) in enumerate(files):
            for name_b, b in files[:i]:
                data_a, data_b = a.read_bytes(), b.read_bytes()
                if data_a != data_b:
                    with self.changed(a, data_b), self.changed(b, data_a), self.subTest(a=name_a, b=name_b):
                        self.expect("refuted", log.verify())

    def test_lines_exchanged_dropped_or_repeated(self):
        log = self.small()
        path, lines = log.dir / "immutable.log", log.get("immutable.log").splitlines(True)
        for i, line in enumerate(lines):
            for kind, changed in (("dropped", lines[:i] + lines[i + 1:]), ("repeated", lines[:i + 1] + lines[i:]),
                                  ("exchanged", lines[:i] + lines[i:i + 2][::-1] + lines[i + 2:])):
                if changed == lines:
                    continue
                with self.changed(path, b"".join(changed)), self.subTest(line=i, kind=kind):
                    self.expect("refuted", log.verify())
                    last = kind == "repeated" and i == len(lines) - 1   # by the document's rule an incomplete batch
                    self.expect("unknown" if last else "refuted", log.verify(state=False))

    def test_rewriting_with_the_tree_but_without_the_key(self):
        log, other = self.sealed(), self.new(seed=b"\x02" * 32)
        other.entries(6)
        other.close()
        log_key = f.parse_vkey(log.vkey)
        self.expect("consistent", other.verify(state=False))
        self.expect("refuted", other.verify(state=False, key=log_key), "pinned key")
        self.expect("refuted", other.verify(state=False, evidence=[("kept", log.make_note(3))]), "kept")

    def test_signer_with_another_root_for_an_earlier_size(self):
        log = self.small()
        real, log.leaves[1] = log.leaves[1], h(b"forged")
        forged = log.make_note(4)
        log.leaves[1] = real
        history = log.history.replace(log.make_note(4), forged)
        self.assertNotEqual(history, log.history)
        log.put("checkpoints", history)
        self.expect("refuted", log.verify(state=False), "root at size 4")

    def test_cut_back_to_an_earlier_signed_state(self):
        log = self.small()
        shutil.copytree(log.dir, log.dir.parent / "earlier")
        log.entries(2)
        log.close()
        kept = log.make_note()
        shutil.rmtree(log.dir)
        os.rename(log.dir.parent / "earlier", log.dir)
        self.expect("consistent", log.verify(state=False))   # the document says that a directory alone cannot show it
        self.expect("refuted", log.verify(), "head")
        self.expect("refuted", log.verify(state=False, evidence=[("kept", kept)]), "more entries")

    def test_history_rules(self):
        log = self.small()
        zero, four, six = [log.make_note(n) + b"\n" for n in (0, 4, 6)]
        self.assertEqual(log.history, zero + four + six)
        for history in (four + six, zero + six + four, zero + zero + four + six, zero + four + four + six, b"", b"\n" + log.history, log.history + zero):
            with self.changed(log.dir / "checkpoints", history):
                self.expect("refuted", log.verify(state=False))
        size = log.history.rindex(b"\n6\n") + 1
        for history, verdict in ((log.history + b"\n", "unknown"), (log.history[:size], "unknown"), (log.history[:size] + b"6", "unknown"),
                                 (log.history[:size] + b"7\n", "unknown"), (log.history[:size] + b"6\n", "unknown"), (log.history[:-1], "unknown"),
                                 (log.history + bytes(f.MAX_NOTE), "unknown"), (log.history + bytes(f.MAX_NOTE + 1), "refuted"),
                                 (log.history + b"\n\n" + log.note, "refuted"), (four[:30], "refuted")):
            with self.changed(log.dir / "checkpoints", history):
                self.expect(verdict, log.verify(state=False))
                self.expect("refuted", log.verify())

    def test_signature_lines(self):
        log = self.small()
        text, signature = log.note.split(b"\n\n")
        stranger = "— other.example/w ".encode() + base64.b64encode(bytes(68)) + b"\n"
        history = log.history[:-len(log.note) - 1]
        for lines, good in ((signature + stranger, True), (stranger + signature, True), (stranger, False), (signature + stranger * 15, True),
                            (signature + stranger * 16, False), (b"", False), (signature + signature[:-8] + b"AAAA===\n", False),
                            (signature + b"\n", False), (signature + stranger[3:], False)):
            note = text + b"\n\n" + lines
            log.put("checkpoint", note)
            log.put("checkpoints", history + note + b"\n")
            self.assertEqual(log.verify(state=False)["verdict"], "consistent" if good else "refuted", lines)

    def test_archive_made_otherwise(self):
        """The same lines in frames that the document does not allow, before any seal fixes the bytes."""
        log = self.new()
        log.entries(256)
        log.rotate()
        log.checkpoint()
        log.head(False)
        log.archive(0, 256)
        self.expect("proven", log.verify())
        path = log.dir / f"archive/{0:020d}.jsonl.zst"
        lines = [log.segment_line(0), b"".join(line + b"\n" for line in log.lines), log.commit_line(0, 256)]

        def build(frames, sizes):
            table = b"".join(struct.pack("<II", len(p), n) for p, n in zip(frames, sizes)) + struct.pack("<IBI", len(frames), 0, 0x8F92EAB1)
            return b"".join(frames) + struct.pack("<II", 0x184D2A5E, len(table)) + table
        sizes = [len(part) for part in lines]
        good = [compress(part) for part in lines]

        def zstd(data, *arguments):
            return subprocess.run(["zstd", "-q", "-c", *arguments], input=data, stdout=subprocess.PIPE, check=True).stdout
        self.assertEqual(build(good, sizes), path.read_bytes())
        half = len(lines[1]) // 2
        for frames, lengths in (([good[0], zstd(lines[1], "--no-check", f"--stream-size={sizes[1]}"), good[2]], sizes),
                                ([good[0], zstd(lines[1]), good[2]], sizes),
                                ([compress(lines[0] + lines[1]), good[2]], [sizes[0] + sizes[1], sizes[2]]),
                                ([good[0], compress(lines[1][:half]), compress(lines[1][half:]), good[2]], [sizes[0], half, sizes[1] - half, sizes[2]]),
                                (good + [compress(b"x")], sizes + [1]), ([good[0], good[2]], [sizes[0], sizes[2]]),
                                (good, [sizes[0], sizes[1] + 1, sizes[2]])):
            with self.changed(path, build(frames, lengths)):
                self.expect("refuted", log.verify())


class TestCommand(Case):
    def run_main(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = v.main([str(argument) for argument in arguments])
        return code, out.getvalue(), err.getvalue()

    def test_exit_codes(self):
        log = self.small()
        key = Path(self.temporary.name) / "key"
        key.write_text(log.vkey + "\n")
        kept = Path(self.temporary.name) / "kept"
        kept.write_bytes(log.make_note(4))
        code, out, _ = self.run_main("--json", "--state-dir", log.state, "--key", log.vkey, "--key", key, "--checkpoint", kept, log.dir)
        report = json.loads(out)
        self.assertEqual((code, report["verdict"], report["basis"]), (0, "proven", ["head", "key", "checkpoint"]))
        self.assertEqual(self.run_main("--no-state", "--quiet", log.dir)[:2], (0, "consistent\n"))
        log.put("checkpoint", log.make_note(4))
        self.assertEqual(self.run_main("--no-state", "--quiet", log.dir)[:2], (2, "unknown\n"))
        log.put("immutable.log", b"")
        code, out, _ = self.run_main("--no-state", log.dir)
        self.assertEqual(code, 1)
        self.assertIn("finding: immutable.log offset 0", out)
        self.assertEqual(self.run_main(log.dir / "nowhere")[0], 2)
        self.assertEqual(self.run_main("--key", "nonsense", log.dir)[0], 2)
        self.assertEqual(self.run_main("--checkpoint", log.dir / "log.json", log.dir)[0], 2)


if __name__ == "__main__":
    unittest.main()
