"""The golden vectors of testdata/format/v1: this verifier gives the same answers as the Go program."""

import os
import pathlib
import re
import shutil
import tempfile
import unittest

import immutable_verify as v
from immutable_format import sha256

VECTORS = pathlib.Path(__file__).resolve().parents[2] / "testdata" / "format" / "v1"


def files_of(name):
    """{relative path: bytes} and the header of a vector, its base's files included."""
    folder = VECTORS / name
    header = folder.joinpath("vector.txt").read_text().partition("\n\n")[0]
    lines = [line.split(": ", 1) for line in header.split("\n")]
    fields = {key: [value for k, value in lines if k == key] for key, _ in lines}
    files = files_of(fields["base"][0])[0] if "base" in fields else {}
    for gone in fields.get("gone", []):
        del files[gone]
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "vector.txt":
            files[str(path.relative_to(folder))] = path.read_bytes()
    return files, fields


class GoldenVectors(unittest.TestCase):
    def answer(self, name):
        files, fields = files_of(name)
        with tempfile.TemporaryDirectory() as root:
            root = pathlib.Path(root)
            log = root / "log"
            for folder in ("pending", "archive", "index", "quarantine", "next", "tree"):
                (log / folder).mkdir(parents=True)
            for path, data in files.items():
                target = root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            for link in fields.get("link", []):
                a, b = (log / part for part in link.split(" "))
                a.unlink(missing_ok=True)
                os.link(b, a)
            state = None
            if fields["head"] == ["yes"]:
                state = str(root / "state")
                origin = re.search(rb'"origin":"([^"]*)"', files["log/log.json"])
                folder = root / "state" / sha256(origin[1] if origin else b"").hex()
                folder.mkdir(parents=True)
                shutil.move(root / "head", folder / "head")
            pins = [v.parse_vkey(key) for key in fields.get("vkey", [])]
            evidence = [("kept", files["kept"])] if "kept" in files else []
            return v.verify(str(log), state, pins, evidence, indexes=True), fields

    def test_every_vector_gets_its_answer(self):
        names = sorted(path.name for path in VECTORS.iterdir() if path.is_dir())
        self.assertGreater(len(names), 170)
        for name in names:
            with self.subTest(name):
                report, fields = self.answer(name)
                self.assertEqual(report["verdict"], fields["expect"][0], report)
                if "size" in fields:
                    self.assertEqual((str(report["size"]), report["root"]), (fields["size"][0], fields["root"][0]))


if __name__ == "__main__":
    unittest.main()
