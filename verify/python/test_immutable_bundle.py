"""Evidence bundles and the chain of keys, against bundles that the Go program made."""

import base64
import json
import os
import pathlib
import unittest

import immutable_bundle
import immutable_keys
from immutable_format import Refuse, parse_vkey

SAMPLES = pathlib.Path(__file__).resolve().parents[2] / "testdata" / "bundle" / "v1"
EXPECTED = {"range.json": "consistent", "page.html": "consistent", "selection.json": "consistent"}


class Samples(unittest.TestCase):
    def test_every_sample_gets_its_verdict(self):
        names = [p.name for p in SAMPLES.iterdir() if p.suffix in (".json", ".html")]
        self.assertGreaterEqual(len(names), 8)
        for name in names:
            report = immutable_bundle.verify_bundle((SAMPLES / name).read_bytes())
            self.assertEqual(report["verdict"], EXPECTED.get(name, "refuted"), f"{name}: {report}")
            self.assertEqual(bool(report["findings"]), name not in EXPECTED, name)


class Bundle(unittest.TestCase):
    def setUp(self):
        self.data = (SAMPLES / "range.json").read_bytes().removesuffix(b"\n")
        self.value = json.loads(self.data)

    def verdict(self, data, **known):
        return immutable_bundle.verify_bundle(data, **known)["verdict"]

    def changed(self, change):
        value = json.loads(self.data)
        change(value)
        return immutable_bundle.encode(value).encode()

    def refuted(self, change, what):
        report = immutable_bundle.verify_bundle(self.changed(change))
        self.assertEqual(report["verdict"], "refuted")
        self.assertIn(what, report["findings"][0]["what"])

    def test_a_pinned_epoch_key_proves_and_the_log_key_does_not(self):
        log, ed, ml = (parse_vkey(v) for v in self.value["log"]["vkeys"])
        self.assertEqual(self.verdict(self.data, pins=[ed]), "proven")
        self.assertEqual(self.verdict(self.data, pins=[ml]), "proven")
        self.assertEqual(self.verdict(self.data, pins=[log]), "consistent")
        other = parse_vkey("example.com/evidence+" + other_key("example.com/evidence"))
        self.assertEqual(self.verdict(self.data, pins=[other]), "refuted")

    def test_a_kept_checkpoint_decides(self):
        note = self.value["checkpoint"].encode()
        self.assertEqual(self.verdict(self.data, checkpoints=[("kept", note)]), "proven")

    def test_flipped_bytes_of_what_is_signed_are_refuted(self):
        start = self.data.index(b'"log":{')
        stride = 1 if os.environ.get("IMMUTABLE_FLIP_ALL") else 211
        flips = 0
        for place in range(start, len(self.data), stride):
            bad = bytearray(self.data)
            bad[place] ^= 1
            self.assertEqual(self.verdict(bytes(bad)), "refuted", f"byte {place}")
            flips += 1
        self.assertGreater(flips, 50)

    def test_each_rule_of_entries_and_proof(self):
        self.refuted(lambda v: v["proof"].pop(), "too few hashes")
        self.refuted(lambda v: v["proof"].append(v["proof"][0]), "nothing needs")
        self.refuted(lambda v: v["entries"].reverse(), "index of entries")
        self.refuted(lambda v: v["entries"][0].update(leaf=v["entries"][1]["leaf"]), "not what its leaf says")
        self.refuted(lambda v: v["entries"][0].update(line=v["entries"][1]["line"], leaf=v["entries"][1]["leaf"]), "id's low 32 bits")
        self.refuted(lambda v: v["entries"].clear(), "without entries")
        self.refuted(lambda v: v["proof"].__setitem__(0, v["proof"][-1] if len(v["proof"]) > 1 else base64.b64encode(bytes(32)).decode()), "root")

    def test_each_rule_of_the_statement(self):
        state = lambda **kw: lambda v: v["statement"].update(kw)
        self.refuted(state(count=5), "count")
        self.refuted(state(to=11), "range")
        self.refuted(lambda v: v["statement"].update({"from": 3}), "outside the statement's range")
        self.refuted(lambda v: v["statement"].update({"from": 1}), "some are missing")
        self.refuted(state(made="yesterday"), "timestamp")
        self.refuted(state(levels=["NOISE"]), "levels")
        self.refuted(state(since="2200-01-01T00:00:00.000000000Z"), "time that was not asked for")
        self.refuted(state(levels=["CRITICAL"]), "level that was not asked for")

    def test_each_rule_of_keys(self):
        def swap(v):
            v["log"]["vkeys"][1], v["log"]["vkeys"][2] = v["log"]["vkeys"][2], v["log"]["vkeys"][1]
        self.refuted(swap, "forms")
        self.refuted(lambda v: v["log"]["vkeys"].pop(), "forms")
        self.refuted(lambda v: v["log"]["vkeys"].clear(), "without signatures")
        self.refuted(lambda v: v["log"].update(origin="example.com/other"), "another name")

    def test_other_spellings_are_refused(self):
        for bad in (self.data.replace(b'{"format"', b'{ "format"', 1), self.data.replace(b":0", b":00", 1) + b" ",
                    self.data.replace(b"bundle/1", b"bundle/2", 1), b"{}", b'{"format":"immutable/bundle/1"}', self.data + b"\n\n"):
            self.assertEqual(self.verdict(bad), "refuted", bad[:60])


def other_key(name):
    import hashlib
    body = b"\x01" + base64.b64decode("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    keyid = hashlib.sha256(name.encode() + b"\n" + body).digest()[:4]
    return keyid.hex() + "+" + base64.b64encode(body).decode()


class ChainOfKeys(unittest.TestCase):
    def setUp(self):
        value = json.loads((SAMPLES / "selection.json").read_bytes())
        if not value["epochs"]:
            value = json.loads((SAMPLES / "range.json").read_bytes())
        self.origin, self.note = value["log"]["origin"], value["checkpoint"].encode()
        self.vkeys, self.lines = value["log"]["vkeys"], value["epochs"].encode().split(b"\n")[:-1]
        self.assertGreaterEqual(len(self.lines), 2)

    def chain(self, lines=()):
        chain = immutable_keys.Chain(self.origin, immutable_keys.parse_log_keys(self.vkeys, self.origin))
        for line in lines:
            chain.add(line)
        return chain

    def test_leads_from_the_first_keys_to_the_newest_checkpoint(self):
        self.assertGreater(self.chain(self.lines).open(self.note).size, 0)

    def test_a_checkpoint_is_not_good_by_the_keys_of_an_earlier_epoch(self):
        for known in range(len(self.lines)):
            with self.assertRaises(Refuse):
                self.chain(self.lines[:known]).open(self.note)

    def test_lines_out_of_order_or_twice_are_refused(self):
        for lines in ([self.lines[1]], [self.lines[0], self.lines[0]]):
            with self.assertRaisesRegex(Refuse, "out of order"):
                self.chain(lines)

    def link(self, number, change):
        parts = json.loads(self.lines[number])
        change(parts)
        return immutable_bundle.encode(parts).replace("\\u003c", "<").replace("\\u003e", ">").replace("\\u0026", "&").encode()

    def refused(self, change, what, number=0):
        with self.assertRaisesRegex(Refuse, what):
            self.chain([*self.lines[:number], self.link(number, change)])

    def test_each_rule_of_a_link(self):
        self.assertEqual(self.link(0, lambda v: None), self.lines[0])

        def proof(edit):
            return lambda v: v.update(proof=edit(v["proof"]))

        def strip(which):
            def edit(text):
                head, _, signatures = text.rpartition("\n\n")
                lines = signatures.removesuffix("\n").split("\n")
                del lines[which]
                return head + "\n\n" + "\n".join(lines) + "\n"
            return edit
        for which in range(3):
            self.refused(proof(strip(which)), "lacks a signature")
        self.refused(proof(lambda t: t.replace("index ", "index 9", 1)), "stands at index")
        self.refused(proof(lambda t: t.replace("tlog-proof@v1", "tlog-proof@v2")), "not a tlog-proof")
        self.refused(lambda v: v.update(entry=v["entry"].replace("SYSTEM", "AUDIT")), "not in the closing checkpoint")
        self.refused(proof(lambda t: t[:-8] + ("AAAA===\n" if t[-8:] != "AAAA===\n" else "BBBB===\n")), ".")


if __name__ == "__main__":
    unittest.main()
