"""Tests against the real program and a real server, which are built from this repository unless IMMUTABLE_BINARY names one.

    python3 -m unittest
"""
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import unittest
import warnings
from datetime import date, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import core.immutable_logger
import immutable_logger
from immutable_logger import ImmutableLogger
from immutable_logger import logger as logger_module
from immutable_logger import server as server_module

HERE = Path(__file__).parent
TOKEN = "first-administrator-of-a-test"
work = None
environment = None


def setUpModule():
    global work, environment
    work = tempfile.mkdtemp()
    binary = os.environ.get("IMMUTABLE_BINARY")
    if not binary:
        binary = os.path.join(work, "immutable.exe" if os.name == "nt" else "immutable")
        subprocess.run(["go", "build", "-o", binary, "./cmd/immutable"], cwd=HERE.parent.parent, check=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("IMMUTABLE_")}
    kept |= {"IMMUTABLE_BINARY": binary, "IMMUTABLE_STATE_DIR": os.path.join(work, "state")}
    environment = mock.patch.dict(os.environ, kept, clear=True)
    environment.start()


def tearDownModule():
    environment.stop()
    shutil.rmtree(work, ignore_errors=True)


class Service:
    """A real server on loopback."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(dir=work)
        self.port = 0
        self.start()

    def start(self):
        env = os.environ | {"IMMUTABLE_BOOTSTRAP_TOKEN": TOKEN}
        env.pop("IMMUTABLE_STATE_DIR")
        self.process = subprocess.Popen(
            [os.environ["IMMUTABLE_BINARY"], "serve", "--data-dir", self.dir, "--listen", f"127.0.0.1:{self.port}"],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for line in self.process.stdout:
            if "http://127.0.0.1:" in line:
                self.port = int(line.split("http://127.0.0.1:")[1].split(",")[0].split("/")[0])
                break
        else:
            raise AssertionError("the server did not start")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self):
        self.process.terminate()
        if self.process.wait(60) != 0:
            raise AssertionError(f"the server ended with {self.process.returncode}")

    def ask(self, method, path, body=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        c.request(method, path, json.dumps(body), {"Authorization": "Bearer " + TOKEN, "Content-Type": "application/json"})
        answer = c.getresponse()
        data = json.loads(answer.read())
        c.close()
        return answer.status, data


class Between:
    """A real HTTP server that passes requests on. lose says of which requests the answer is lost, say answers itself."""

    def __init__(self, service):
        self.asked = 0
        self.lose = lambda method, n: False
        self.say = lambda method, path: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self):
                outer.asked += 1
                n = outer.asked
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                said = outer.say(self.command, self.path)
                if said is None:
                    c = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
                    c.request(self.command, self.path, body, {k: v for k, v in self.headers.items() if k.lower() != "host"})
                    answer = c.getresponse()
                    said = answer.status, answer.getheaders(), answer.read()
                    c.close()
                    if outer.lose(self.command, n):
                        self.close_connection = True
                        return
                self.send_response(said[0])
                for k, v in said[1]:
                    if k.lower() not in ("content-length", "connection", "transfer-encoding"):
                        self.send_header(k, v)
                self.send_header("Content-Length", str(len(said[2])))
                self.end_headers()
                self.wfile.write(said[2])

            do_GET = do_POST = pass_on

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


class Both:
    """What holds for a directory and for a server alike."""

    def test_levels_receipts_and_entries(self):
        with self.logger() as logger:
            receipts = []
            for i, level in enumerate(immutable_logger.LEVELS):
                receipts.append(getattr(logger, level.lower())(f'naïve "{i}"\n\u2028', {"i": i, "deep": {"b": [1.5, None, True], "a": "日本"}}))
            for i, r in enumerate(receipts):
                self.assertEqual((r["success"], r["index"], len(r["hash"]), len(r["leaf"])), (True, i, 64, 64))
            entries = logger.read()
            self.assertEqual([e["level"] for e in entries], list(immutable_logger.LEVELS))
            for i, e in enumerate(entries):
                self.assertEqual((e["message"], e["metadata"]), (f'naïve "{i}"\n\u2028', {"i": i, "deep": {"b": [1.5, None, True], "a": "日本"}}))
                self.assertEqual((e["id"], e["timestamp"], e["pid"]), (receipts[i]["id"], receipts[i]["timestamp"], os.getpid()))
            self.assertIs(logger.verify(), True)
            self.assertIn(logger.last_report["verdict"], ("proven", "consistent"))

    def test_reading_as_the_sketch_does(self):
        with self.logger() as logger:
            self.assertEqual(logger.read(), [])
            self.assertEqual(logger.search("anything"), [])
            for i in range(12):
                logger.info(f"Entry {i}", {"sequence": i})
            logger.error("Database connection failed", {"error": "ECONNREFUSED"})
            logger.revenue("Sale completed", {"amount": 9900, "currency": "USD", "note": '5% "off" \\ spring'})
            logger.revenue("Stripe webhook received", {"charge_id": "ch_abc123", "amount": 100})
            logger.security("Failed login attempt", {"username": "admin", "ip": "203.0.113.42", "blocked": True})
            self.assertEqual([e["message"] for e in logger.read(limit=3)], ["Sale completed", "Stripe webhook received", "Failed login attempt"])
            self.assertEqual(logger.read(limit=0), [])
            self.assertEqual([e["level"] for e in logger.read(limit=50, level="ERROR")], ["ERROR"])
            self.assertEqual(len(logger.read(level=["error", "security"])), 2)
            today = datetime.now(timezone.utc)
            day = timedelta(days=1)
            self.assertEqual(len(logger.read(start_date=(today - day).date(), end_date=(today + day).strftime("%Y-%m-%d"))), 16)
            self.assertEqual(logger.read(start_date=today + day), [])
            self.assertEqual(logger.read(limit=100, level="ERROR", start_date="2020-01-01", end_date="2021-01-01T00:00:00Z"), [])
            # Both ends belong to it.
            one = logger.read(limit=1)[0]["timestamp"]
            self.assertEqual([e["timestamp"] for e in logger.read(start_date=one, end_date=one)], [one])
            search = lambda *a, **k: [e["message"] for e in logger.search(*a, **k)]
            self.assertEqual(search("revenue"), ["Sale completed", "Stripe webhook received"])  # in the level
            self.assertEqual(search("Stripe", level="REVENUE"), ["Stripe webhook received"])
            self.assertEqual(sum(e["metadata"]["amount"] for e in logger.search("amount", level="REVENUE")), 10000)  # a name
            self.assertEqual(search("203.0.113.42", level="SECURITY"), ["Failed login attempt"])
            self.assertEqual(search("ailed LOG"), ["Failed login attempt"])
            self.assertEqual(search("Failed login", level="SECURITY", start_date=today - day), ["Failed login attempt"])
            self.assertEqual(search('5% "off" \\ s'), ["Sale completed"])
            self.assertEqual(search(query="entry 1", limit=2), ["Entry 10", "Entry 11"])
            for text in ('"', "\\", "a AND", "(", "level:", "-x", "~", "/", "*", "\n", "\x00", "'; DROP TABLE", "NOT", "--json", "🔍"):
                self.assertIsInstance(logger.search(text), list, text)
            self.assertEqual([e["metadata"]["sequence"] for e in logger.query("sequence:3..5")], [3, 4, 5])
            with self.assertRaises(immutable_logger.QueryError):
                logger.query("a AND")

    def test_stats_and_chain(self):
        with self.logger() as logger:
            logger.info("one")
            logger.warn("two")
            logger.revenue("three", {"amount": 500})
            s = logger.stats()
            self.assertEqual((s["totalEntries"], s["blockchainLength"], s["verified"]), (3, 3, True))
            self.assertEqual((s["levels"]["INFO"], s["levels"]["WARN"], s["levels"]["REVENUE"]), (1, 1, 1))
            self.assertGreater(s["fileSize"], 0)
            self.assertLessEqual(s["oldestEntry"], s["newestEntry"])
            self.assertIs(logger.stats(verify=False)["verified"], True)
            chain = logger.chain
            self.assertEqual(len(chain), 3)
            self.assertEqual([b["index"] for b in chain], [0, 1, 2])
            self.assertEqual(chain[-1]["previousHash"], chain[1]["hash"])
            self.assertEqual(json.loads(chain[0]["data"])["message"], "one")
            self.assertEqual([b["index"] for b in chain[1:]], [1, 2])
            with self.assertRaises(IndexError):
                chain[3]
            chain[0]["data"] = "TAMPERED"  # of a copy
            self.assertTrue(logger.verify())

    def test_threads(self):
        with self.logger() as logger:
            failed, indexes = [], []

            def run(worker):
                try:
                    for i in range(25):
                        indexes.append(logger.info(f"Worker {worker} - Entry {i}")["index"])
                except Exception as e:
                    failed.append(e)

            threads = [threading.Thread(target=run, args=(w,)) for w in range(8)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            self.assertEqual(failed, [])
            self.assertEqual(sorted(indexes), list(range(200)))
            self.assertTrue(logger.verify())

    def test_idempotency_keys(self):
        with self.logger() as logger:
            first = logger.log("AUDIT", "paid", {"n": 1}, idempotency_key="k", event_time=datetime(2026, 1, 2, tzinfo=timezone.utc))
            again = logger.log("audit", "paid", {"n": 1}, idempotency_key="k", event_time=datetime(2026, 1, 2, tzinfo=timezone.utc))
            self.assertEqual((again["index"], again["hash"], again["repeated"]), (first["index"], first["hash"], True))
            with self.assertRaises(immutable_logger.EventError):
                logger.log("AUDIT", "other", idempotency_key="k")
            self.assertEqual(logger.read()[0]["eventTime"], "2026-01-02T00:00:00Z")

    def test_refused_events(self):
        with self.logger() as logger:
            logger.info("before")
            for message, metadata in [
                ("x" * 70000, None), (5, None), ("x", "text"), ("x", ["list"]), ("x", {"n": float("nan")}), ("x", {"f": object()}),
                ("\ud800", None), ("x", {"\udfff": 1}), ("x", {1: "a", "1": "b"}), ("x", {"n": 10**400}),
            ]:
                with self.assertRaises(immutable_logger.EventError, msg=repr(metadata)[:50]):
                    logger.info(message, metadata)
            with self.assertRaises(immutable_logger.EventError):
                logger.log("INFO", "x", event_time=datetime(2026, 1, 1))
            with self.assertRaises(immutable_logger.ConfigurationError):
                logger.log("DEBUG", "x")
            with self.assertRaises(immutable_logger.ConfigurationError):
                logger.read(level="DEBUG")
            with self.assertRaises(immutable_logger.ConfigurationError):
                logger.read(start_date="yesterday")
            logger.info("after", {"when": datetime(2026, 1, 1), "day": date(2026, 1, 1)})
            self.assertEqual([e["message"] for e in logger.read()], ["before", "after"])

    def test_verify_against_what_is_known_from_elsewhere(self):
        with self.logger() as logger:
            logger.audit("kept")
            self.assertTrue(logger.verify(keys=self.keys(logger)))
            self.assertEqual(logger.last_report["verdict"], "proven")
            with self.logger() as other:
                other.audit("another log")
                self.assertFalse(other.verify(keys=self.keys(logger)))
                self.assertEqual(other.last_report["verdict"], "refuted")


class DirectoryTest(Both, unittest.TestCase):
    def logger(self, **options):
        return ImmutableLogger(os.path.join(tempfile.mkdtemp(dir=work), "logs"), **options)

    def keys(self, logger):
        return json.loads((logger.log_dir / "log.json").read_text())["vkeys"]

    def test_same_class_under_both_names(self):
        self.assertIs(core.immutable_logger.ImmutableLogger, ImmutableLogger)

    def test_constructor_as_the_sketch_calls_it(self):
        where = os.path.join(tempfile.mkdtemp(dir=work), "logs")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with ImmutableLogger(log_dir=where, enable_blockchain=True, enable_encryption=False, rotate_size=1024) as logger:
                for _ in range(300):
                    logger.info("X" * 1000, {"data": "padding"})
                self.assertTrue(logger.log_file.exists())
                self.assertEqual(logger.stats()["rotateSize"], 104857600)  # a reader's
        self.assertIn("65536", str(caught[0].message))
        self.assertEqual(len(list(Path(where, "archive").glob("*.zst"))) > 0, True)
        with mock.patch.dict(os.environ, {"IMMUTABLE_LOG_DIR": where}):
            self.assertEqual(len(ImmutableLogger().read(limit=1000)), 300)

    def test_unsigned_log(self):
        with self.logger(enable_blockchain=False) as logger:
            logger.info("no keys")
            self.assertTrue(logger.verify())
            self.assertEqual((logger.last_report["signed"], logger.stats()["signed"]), (False, False))

    def test_encryption_is_refused_and_not_ignored(self):
        where = os.path.join(work, "encrypted")
        with self.assertRaisesRegex(NotImplementedError, "readable"):
            ImmutableLogger(where, enable_encryption=True)
        self.assertFalse(os.path.exists(where))

    def test_wrong_arguments(self):
        with self.assertRaises(immutable_logger.ConfigurationError):
            ImmutableLogger("./logs", url="http://127.0.0.1:1")
        with self.assertRaises(immutable_logger.ConfigurationError):
            ImmutableLogger(work, rotate_size=-1)
        with self.assertRaises(TypeError):
            ImmutableLogger(work, enable_cloud_backup=True)
        with self.assertRaises(immutable_logger.BinaryNotFoundError):
            ImmutableLogger(work, binary="no-such-program")
        for url in ("logs.example.com", "ftp://h", "https://user:secret@h", "http://h:99999", "http://h?x=1"):
            with self.assertRaises(immutable_logger.ConfigurationError) as e:
                ImmutableLogger(url=url)
            self.assertNotIn("secret", str(e.exception))
        with self.assertRaises(immutable_logger.ConfigurationError):
            ImmutableLogger(url="http://h", token="abc\n")

    def test_tampering_is_found(self):
        with self.logger() as logger:
            logger.audit("Permission change", {"newRole": "manager"})
        data = logger.log_file.read_bytes()
        os.chmod(logger.log_file, 0o644)
        logger.log_file.write_bytes(data.replace(b"manager", b"visitor"))
        self.assertIs(logger.verify(), False)
        self.assertTrue(logger.last_report["findings"])
        self.assertIs(logger.stats()["verified"], False)

    def test_a_missing_log_is_not_an_intact_one(self):
        logger = self.logger()
        with self.assertRaises(immutable_logger.NotFoundError):
            logger.verify()
        self.assertEqual((logger.stats()["totalEntries"], logger.stats()["verified"]), (0, None))
        self.assertFalse(logger.log_dir.exists())

    def test_what_cannot_be_told_is_no_verdict(self):
        with self.logger() as logger:
            logger.info("one")
        logger.log_file.unlink()
        logger.log_file.mkdir()
        with contextlib.suppress(immutable_logger.UnknownVerdictError):
            self.assertIs(logger.verify(), False)
        (logger.log_dir / "log.json").write_text("{")
        with contextlib.suppress(immutable_logger.UnknownVerdictError):
            self.assertIs(logger.verify(), False)

    def test_loggers_of_one_directory_share_it(self):
        with self.logger() as one:
            two = ImmutableLogger(one.log_dir)
            one.info("a")
            two.info("b")
            one.close()
            two.info("c")
            one.info("d")
            del two
            one.info("e")
            self.assertEqual([e["message"] for e in one.read()], list("abcde"))

    def test_another_process_is_refused_with_a_reason(self):
        with self.logger() as logger:
            logger.info("mine")
            code = (
                "import sys, immutable_logger as i\n"
                "try:\n    i.ImmutableLogger(sys.argv[1]).info('theirs')\n"
                "except i.LockedError as e:\n    print('locked:', e)\n"
            )
            done = subprocess.run([sys.executable, "-c", code, str(logger.log_dir)], cwd=HERE, capture_output=True, text=True, check=True)
            self.assertRegex(done.stdout, r"^locked: .*has been writing to this log since .*through a server")
            self.assertEqual(len(logger.read()), 1)

    def test_end_of_the_program_closes_the_log(self):
        where = os.path.join(tempfile.mkdtemp(dir=work), "logs")
        code = "import sys\nfrom core.immutable_logger import ImmutableLogger\nImmutableLogger(sys.argv[1]).info('only')\nlogger = ImmutableLogger(sys.argv[1])\nlogger.info('kept')\n"
        subprocess.run([sys.executable, "-c", code, where], cwd=HERE, check=True)
        logger = ImmutableLogger(where)
        self.assertEqual([e["message"] for e in logger.read()], ["only", "kept"])
        self.assertEqual(logger.stats()["checkpointSize"], 2)  # closing signs

    def test_killed_writer_is_said_and_started_again(self):
        with self.logger() as logger:
            logger.info("a")
            writer = immutable_logger.local._writers._open[os.path.realpath(logger.log_dir)]
            os.kill(writer._process.pid, signal.SIGSTOP)
            failed = []

            def log():
                try:
                    logger.info("perhaps")
                except immutable_logger.ImmutableError as e:
                    failed.append(e)

            thread = threading.Thread(target=log)
            thread.start()
            while not writer._waiting:
                pass
            os.kill(writer._process.pid, signal.SIGKILL)
            thread.join()
            self.assertIsInstance(failed[0], immutable_logger.UncertainError)
            logger.info("b")
            messages = [e["message"] for e in logger.read() if e["level"] == "INFO"]
            self.assertEqual([m for m in messages if m != "perhaps"], ["a", "b"])
            self.assertTrue(logger.verify())


class ServerTest(Both, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = Service()
        cls.number = 0

    @classmethod
    def tearDownClass(cls):
        cls.service.stop()

    def logger(self, url=None, **options):
        type(self).number += 1
        name = f"log-{self.number}"
        status, answer = self.service.ask("POST", "/api/v1/tenants/default/logs", {"name": name})
        self.assertEqual(status, 201, answer)
        return ImmutableLogger(url=url or self.service.url, token=TOKEN, log=name, **options)

    def keys(self, logger):
        return self.service.ask("GET", logger._backend._base + "/keys")[1]["keys"]

    def between(self):
        b = Between(self.service)
        self.addCleanup(b.stop)
        return b

    def test_events_land_once_though_answers_are_lost(self):
        b = self.between()
        b.lose = lambda method, n: method == "POST" and n % 3 != 0
        with self.logger(url=b.url) as logger:
            logger._backend._pause = lambda s: None
            self.assertEqual([logger.audit(f"lost {i}")["index"] for i in range(10)], list(range(10)))
            b.lose = lambda method, n: False
            self.assertEqual(len(logger.read()), 10)

    def test_uncertain_is_said(self):
        b = self.between()
        b.lose = lambda method, n: True
        with self.logger(url=b.url, retry_for=0) as logger:
            with self.assertRaises(immutable_logger.UncertainError):
                logger.log("INFO", "perhaps", idempotency_key="mine")
            b.lose = lambda method, n: False
            self.assertTrue(logger.log("INFO", "perhaps", idempotency_key="mine")["repeated"])

    def test_retry_after_and_pauses(self):
        b = self.between()
        with self.logger(url=b.url) as logger:
            waits, clock = [], [0.0]

            def wait(seconds):
                waits.append(seconds)
                clock[0] += seconds

            logger._backend._pause, logger._backend._now = wait, lambda: clock[0]
            b.say = lambda method, path: (503, [("Retry-After", "7")], b"") if len(waits) == 0 else None
            logger.info("later")
            self.assertEqual(waits, [7.0])
            b.say = lambda method, path: (503, [], b"busy")
            with self.assertRaises(immutable_logger.UncertainError):
                logger.info("never")
            self.assertLessEqual(clock[0] - 7, 30)
            self.assertGreater(clock[0] - 7, 20)
            waits.clear()
            b.say = lambda method, path: (302, [("Location", self.service.url + path)], b"")
            with self.assertRaisesRegex(immutable_logger.ServerError, "redirects"):
                logger.read()
            self.assertEqual(waits, [])

    def test_server_that_comes_back(self):
        service = Service()
        logger = ImmutableLogger(url=service.url, token=TOKEN)
        logger.info("before")
        service.stop()
        done = []
        thread = threading.Thread(target=lambda: done.append(logger.info("while it was away")))
        thread.start()
        service.start()
        thread.join()
        self.assertEqual(done[0]["index"], 1)
        service.stop()
        logger = ImmutableLogger(url=service.url, token=TOKEN, retry_for=0)
        with self.assertRaises(immutable_logger.ServerError) as e:
            logger.info("nobody is there")
        self.assertEqual(e.exception.status, 0)

    def test_roles(self):
        tokens = {}
        for role in ("writer", "reader"):
            status, answer = self.service.ask("POST", "/api/v1/tenants/default/tokens", {"name": role, "role": role})
            self.assertEqual(status, 201, answer)
            tokens[role] = next(v for v in answer.values() if isinstance(v, str) and v.startswith("imt_"))
        writer = ImmutableLogger(url=self.service.url, token=tokens["writer"])
        writer.info("written")
        with self.assertRaises(immutable_logger.AccessError):
            writer.read()
        reader = ImmutableLogger(url=self.service.url, token=tokens["reader"])
        self.assertEqual(reader.read(limit=1)[0]["message"], "written")
        with self.assertRaises(PermissionError):
            reader.info("no")
        with self.assertRaises(immutable_logger.AccessError):
            ImmutableLogger(url=self.service.url, token="imt_wrong").read()
        with self.assertRaises(immutable_logger.NotFoundError):
            ImmutableLogger(url=self.service.url, token=TOKEN, log="nowhere").read()
        with mock.patch.dict(os.environ, {"IMMUTABLE_TOKEN": TOKEN}):
            self.assertTrue(ImmutableLogger(url=self.service.url).read())

    def test_pages(self):
        with self.logger() as logger, mock.patch.object(server_module, "PAGE", 7):
            for i in range(30):
                logger.info(f"Entry {i}")
            self.assertEqual([e["index"] for e in logger.read(limit=25)], list(range(5, 30)))
            self.assertEqual([e["index"] for e in logger.read()], list(range(30)))


class HelpersTest(unittest.TestCase):
    def test_bounds(self):
        for when, start, end in [
            ("2026-01-31", "2026-01-31T00:00:00.000000000Z", "2026-02-01T00:00:00.000000000Z"),
            (date(2026, 1, 31), "2026-01-31T00:00:00.000000000Z", "2026-02-01T00:00:00.000000000Z"),
            ("2026-01-31T23:59:59Z", "2026-01-31T23:59:59.000000000Z", "2026-01-31T23:59:59.000000001Z"),
            ("2026-01-31 23:59", "2026-01-31T23:59:00.000000000Z", "2026-02-01T00:00:00.000000000Z"),
            ("2026-01-31T23:59:59.999999999+02:00", "2026-01-31T21:59:59.999999999Z", "2026-01-31T22:00:00.000000000Z"),
            (datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=-5))), "2026-01-31T17:00:00.000000000Z", "2026-01-31T17:00:00.000000001Z"),
            (datetime(2026, 1, 31, 12, 0, 0, 5), "2026-01-31T12:00:00.000005000Z", "2026-01-31T12:00:00.000005001Z"),
        ]:
            self.assertEqual((logger_module.bound(when, end=False), logger_module.bound(when, end=True)), (start, end), when)
        for bad in ("", "now", "2026-13-01", "2026-01-01T25:00", "9999-12-31T23:59:59-23:00", "2026-01-01T00:00:00.1234567890"):
            with self.assertRaises(immutable_logger.ConfigurationError, msg=bad):
                logger_module.bound(bad, end=True)

    def test_timestamps(self):
        for given, want in [("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000000Z"), ("2026-01-01T00:00:00.12Z", "2026-01-01T00:00:00.120000000Z")]:
            self.assertEqual(logger_module.nine_digits(given), want)

    def test_retry_after(self):
        for value, want in [(None, None), ("7", 7.0), ("-7", None), ("soon", None), ("٧", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)]:
            self.assertEqual(server_module.retry_after(value), want)


if __name__ == "__main__":
    unittest.main()
