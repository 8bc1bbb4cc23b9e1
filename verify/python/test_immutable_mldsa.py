"""ML-DSA-44 verification against signatures that another implementation made."""

import json
import pathlib
import random
import unittest

import immutable_mldsa

VECTORS = json.loads((pathlib.Path(__file__).parent / "mldsa44_vectors.json").read_text())["vectors"]


class MLDSA44(unittest.TestCase):
    def setUp(self):
        self.assertEqual(len(VECTORS), 2)
        self.cases = [
            (bytes.fromhex(v["public"]), v["message"].encode(), v["context"].encode(), bytes.fromhex(v["signature"]))
            for v in VECTORS
        ]

    def test_accepts_signatures_of_another_implementation(self):
        for public, message, context, signature in self.cases:
            self.assertTrue(immutable_mldsa.verify(public, message, signature, context))

    def test_refuses_another_message_context_or_key(self):
        public, message, context, signature = self.cases[0]
        self.assertFalse(immutable_mldsa.verify(public, message + b"x", signature, context))
        self.assertFalse(immutable_mldsa.verify(public, message, signature, b"x"))
        self.assertFalse(immutable_mldsa.verify(self.cases[1][0], message, signature, context))

    def test_refuses_flipped_bits_everywhere(self):
        rng = random.Random(1)
        for public, message, context, signature in self.cases:
            # Each part of the signature: challenge, response, hints and their counts.
            for low, high in ((0, 32), (32, 32 + 2304), (32 + 2304, 2416), (2416, 2420)):
                for _ in range(4):
                    bad = bytearray(signature)
                    bad[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
                    self.assertFalse(immutable_mldsa.verify(public, message, bytes(bad), context))
            bad = bytearray(public)
            bad[rng.randrange(len(bad))] ^= 1
            self.assertFalse(immutable_mldsa.verify(bytes(bad), message, signature, context))

    def test_refuses_a_second_spelling_of_the_hints(self):
        public, message, context, signature = self.cases[0]
        hints = signature[32 + 2304 :]
        unused = hints[83]
        self.assertLess(unused, 80, "the vector uses every place for hints")
        bad = bytearray(signature)
        bad[32 + 2304 + unused] = 1  # beyond the last hint: must be zero
        self.assertFalse(immutable_mldsa.verify(public, message, bytes(bad), context))
        ends = [0, *hints[80:84]]
        first = next(i for i in range(4) if ends[i + 1] - ends[i] >= 2)
        bad = bytearray(signature)
        at = 32 + 2304 + ends[first]
        bad[at], bad[at + 1] = bad[at + 1], bad[at]  # the same places in another order
        self.assertFalse(immutable_mldsa.verify(public, message, bytes(bad), context))

    def test_refuses_a_response_at_the_bound(self):
        public, message, context, signature = self.cases[0]
        bad = bytearray(signature)
        bad[32:35] = bytes([0, 0, bad[34] & 0xFC])  # the first coefficient becomes gamma1
        self.assertFalse(immutable_mldsa.verify(public, message, bytes(bad), context))

    def test_refuses_other_lengths(self):
        public, message, context, signature = self.cases[0]
        for bad in (b"", signature[:-1], signature + b"\0"):
            self.assertFalse(immutable_mldsa.verify(public, message, bad, context))
        self.assertFalse(immutable_mldsa.verify(public[:-1], message, signature, context))
        self.assertFalse(immutable_mldsa.verify(public, message, signature, b"x" * 256))


if __name__ == "__main__":
    unittest.main()
