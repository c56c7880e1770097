"""The example that forwards a queue to a Redis stream, with a real broker that is killed and started again."""

import collections
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from rawbpf import Queue, Stack
from tests.conftest import SECONDS, SLOWNESS, TOOLS_REQUIRED, needs_extra

redis = needs_extra("redis", "redis")

pytestmark = [
    pytest.mark.creates,
    pytest.mark.real_kernel(reason="processes that share a map"),
]

EXAMPLE = [sys.executable, "-W", "error", "-m", "rawbpf.examples.forward_redis"]
PATIENCE = 60 * SLOWNESS


class Broker:
    """A redis-server on a port of its own, which writes down what it acknowledges."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        written = ["--appendonly", "yes", "--appendfsync", "always"]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(["redis-server", *options, *written], stdout=log, stderr=log)
        with self.client() as client:
            until(lambda: answers(client))

    def kill(self):
        self.process.kill()
        self.process.wait()

    def client(self):
        return redis.Redis.from_url(self.url)


def answers(client):
    try:
        return client.ping()
    except redis.exceptions.ConnectionError:
        return False


def until(true):
    """Waits until a function says so."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def broker(tmp_path):
    if shutil.which("redis-server") is None and not TOOLS_REQUIRED:
        pytest.skip("redis-server is not installed")
    made = Broker(tmp_path)
    made.start()
    yield made
    made.kill()


@contextmanager
def running(*arguments):
    """The example in a process of its own, killed at the end if it still runs."""
    with subprocess.Popen([*EXAMPLE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process):
    """Exit code, stdout and stderr after SIGTERM."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def number(value):
    return int.from_bytes(value, sys.byteorder)


def test_the_broker_is_killed(broker, bpf_folder):
    """While the broker is killed with SIGKILL and started again, five times, every element gets into the stream, each
    with a seq of its own; what is there twice has the same source, seq and value, and else nothing is."""
    rng, pushed = random.Random(5), 0
    path = f"{bpf_folder}/events"
    with Queue("=Q", 5000, name="events") as q:
        q.pin(path)
        with running("forward", path, "--url", broker.url, "--batch", "50") as forwarder:
            for _ in range(5):
                end = time.monotonic() + rng.uniform(0.1, 0.3) * min(SECONDS, 2)
                while time.monotonic() < end:
                    # Fewer than all are pushed when the queue is full.
                    pushed += q.push_many(range(pushed, pushed + 10))
                    time.sleep(0.001)
                broker.kill()
                pushed += q.push_many(range(pushed, pushed + 500))
                broker.start()
            until(lambda: q.qsize() == 0)
            code, out, err = ended(forwarder)
        # What was in its hands when it was told to stop has gone back.
        rest = q.pop_many(5000)
    assert (code, out) == (0, "")
    with broker.client() as client:
        entries = [fields for _, fields in client.xrange("rawbpf")]
    seen = collections.Counter((each[b"source"], int(each[b"seq"]), number(each[b"value"])) for each in entries)
    values = [value for _, _, value in seen]
    assert sorted([*values, *rest]) == list(range(pushed))
    assert len({(source, seq) for source, seq, _ in seen}) == len(seen)
    assert sorted(seq for _, seq, _ in seen) == list(range(1, len(seen) + 1))
    assert f"{len(seen)} entries acknowledged" in err
    duplicates = sum(seen.values()) - len(seen)
    print(f"{pushed} elements, {duplicates} of them twice, {err.count('entries wait')} failures")
    assert err.count("entries wait") > 0


class LostAnswer(threading.Thread):
    """Stands between a forwarder and the broker, and loses the answer to the first batch with the connection."""

    def __init__(self, broker):
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listening.getsockname()[1]}"
        self.broker = ("127.0.0.1", broker.port)
        self.lost = 0

    def run(self):
        with self.listening, suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                with client, socket.create_connection(self.broker) as server:
                    self.pass_on(client, server)

    def pass_on(self, client, server):
        executed = False
        while True:
            for each in select.select([client, server], [], [])[0]:
                data = each.recv(1 << 16)
                if not data:
                    return
                executed = executed or b"EXEC" in data
                if each is server and executed and not self.lost:
                    self.lost += 1
                    return
                (client if each is server else server).sendall(data)

    def stop(self):
        # This wakes accept().
        self.listening.shutdown(socket.SHUT_RDWR)
        self.join()


def test_an_answer_that_is_lost(broker, bpf_folder):
    """A batch whose answer was lost is in the stream twice, each entry with the source and seq that it had before."""
    proxy = LostAnswer(broker)
    proxy.start()
    with Queue("=Q", 100, name="m") as q:
        q.pin(f"{bpf_folder}/m")
        q.push_many(range(20))
        with running("forward", f"{bpf_folder}/m", "--url", proxy.url, "--batch", "5") as forwarder:
            with broker.client() as client:
                until(lambda: client.xlen("rawbpf") == 25)
                entries = [fields for _, fields in client.xrange("rawbpf")]
            assert ended(forwarder)[0] == 0
    proxy.stop()
    assert proxy.lost == 1
    seen = [(int(each[b"seq"]), number(each[b"value"])) for each in entries]
    once = [(value + 1, value) for value in range(20)]
    assert seen == [*once[:5], *once]
    assert len({each[b"source"] for each in entries}) == 1


@pytest.mark.parametrize("made", [Queue, Stack])
def test_what_is_not_acknowledged_goes_back(broker, bpf_folder, made):
    """Where the broker is gone, SIGTERM ends the forwarder soon, and every element is in the map again."""
    path = f"{bpf_folder}/m"
    broker.kill()
    with made("=Q", 100, name="m") as m:
        m.pin(path)
        m.push_many(range(100))
        with running("forward", path, "--url", broker.url, "--batch", "30") as forwarder:
            until(lambda: m.qsize() == 70)
            code, out, err = ended(forwarder)
        assert (code, out) == (0, "")
        assert "30 entries wait" in err and "0 entries acknowledged" in err
        left = m.pop_many(100)
    assert sorted(left) == list(range(100))
    if made is Stack:
        assert left == list(range(99, -1, -1))
    broker.start()


def test_what_does_not_fit_back_is_printed(broker, bpf_folder):
    """If others have filled the queue meanwhile, what was not acknowledged is printed, with exit code 1."""
    path = f"{bpf_folder}/m"
    broker.kill()
    with Queue("=Q", 4, name="m") as q:
        q.pin(path)
        q.push_many([1, 2, 3, 4])
        with running("forward", path, "--url", broker.url) as forwarder:
            assert "4 entries wait" in forwarder.stderr.readline()
            assert q.push_many([5, 6, 7]) == 3
            code, out, _ = ended(forwarder)
        assert code == 1
        assert [*q.drain(), *(number(bytes.fromhex(line[2:])) for line in out.split())] == [5, 6, 7, 1, 2, 3, 4]
    broker.start()


def test_a_wrong_password_is_final(broker, bpf_folder):
    """Where Redis does not take the password the forwarder ends, and every element is in the queue again."""
    with broker.client() as client:
        client.config_set("requirepass", "secret")
    with Queue("=Q", 8, name="m") as q:
        q.pin(f"{bpf_folder}/m")
        q.push_many([1, 2, 3])
        with running("forward", f"{bpf_folder}/m", "--url", broker.url) as forwarder:
            _, err = forwarder.communicate(timeout=PATIENCE)
        assert forwarder.returncode == 1 and "AuthenticationError" in err
        assert list(q.drain()) == [1, 2, 3]


def consumed(process, count):
    """So many lines that a consumer has printed."""
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def test_consumers(broker, bpf_folder):
    """Consumers of the group share the entries; what one took and did not acknowledge, the next takes over; what is
    acknowledged is removed; a batch that was sent twice is marked."""
    path = f"{bpf_folder}/m"
    with Queue("=Q", 100, name="m") as q:
        q.pin(path)
        q.push_many(range(20))
        with running("forward", path, "--url", broker.url) as forwarder:
            with broker.client() as client:
                until(lambda: client.xlen("rawbpf") == 20)
                # A consumer that takes five and dies.
                client.xgroup_create("rawbpf", "rawbpf", id="0")
                [[_, taken]] = client.xreadgroup("rawbpf", "dead", {"rawbpf": ">"}, count=5)
                assert len(taken) == 5
                # The answer to the first was lost: it is sent again.
                client.xadd("rawbpf", taken[0][1])
            with running("consume", "alive", "--url", broker.url, "--idle", "100") as consumer:
                lines = consumed(consumer, 21)
                assert ended(consumer) == (0, "", "")
            assert ended(forwarder)[0] == 0
    assert sorted({number(bytes.fromhex(line["value"])) for line in lines}) == list(range(20))
    twice = [line for line in lines if line["seq"] == 1]
    assert len(twice) == 2 and any("duplicate" in line for line in twice)
    with broker.client() as client:
        assert client.xlen("rawbpf") == 0
        assert client.xpending("rawbpf", "rawbpf")["pending"] == 0


def test_a_consumer_outlives_the_broker(broker):
    """A consumer whose broker is killed and started again goes on."""
    with running("consume", "alive", "--url", broker.url) as consumer:
        with broker.client() as client:
            client.xadd("rawbpf", {"source": "s", "seq": 1, "value": b"a"})
        assert [line["seq"] for line in consumed(consumer, 1)] == [1]
        broker.kill()
        assert "consume: " in consumer.stderr.readline()
        broker.start()
        with broker.client() as client:
            client.xadd("rawbpf", {"source": "s", "seq": 2, "value": b"b"})
        # The acknowledgement of the first may have been lost with the broker.
        line = consumed(consumer, 1)[0]
        assert line["seq"] == 2 and "duplicate" not in line


def test_without_the_package():
    """Without the redis package the error says what to install, and --help works."""
    code = "import sys; sys.modules['redis'] = None; sys.argv = ['x', 'consume', 'me']"
    code += "; from rawbpf.examples import forward_redis; forward_redis.main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert "pip install 'rawbpf[redis]'" in result.stderr
    shown = subprocess.run([*EXAMPLE, "--help"], capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert shown.returncode == 0 and "At least once" in shown.stdout
