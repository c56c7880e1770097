"""`rawbpf metrics`, read by Prometheus's own parsers, once, in a file and over HTTP."""

import os
import signal
import stat
import subprocess
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from rawbpf import Hash, Queue, RingBuffer, Stack
from rawbpf.cli import metrics
from tests.cli.command import COMMAND, run
from tests.conftest import IS_ROOT, needs_extra
from tests.maps.ring_producer import Producer

parse_openmetrics, parse_text_format = (
    needs_extra(f"prometheus_client.{name}", "prometheus-client").text_string_to_metric_families
    for name in ("openmetrics.parser", "parser")
)

pytestmark = [
    pytest.mark.creates,
    pytest.mark.admin,
    pytest.mark.linux("5.9"),
    pytest.mark.real_kernel(reason="programs look into the map"),
]


@pytest.fixture
def maps(bpf_folder):
    """A queue with three of eight elements, a full stack, and a ring buffer with two records read and one not."""
    with (
        Queue(12, 8, name="events") as q,
        Stack(4, 2, name="full") as s,
        RingBuffer(4096, "=Q", name="ring") as ring,
        Producer(ring) as producer,
    ):
        q.push_many(bytes(36))
        s.push_many(bytes(8))
        producer.produce(3)
        assert [ring.pop(), ring.pop()] == [0, 1]
        for name, m in (("b", q), ("a", q), ("s", s), ("ring", ring)):
            m.pin(f"{bpf_folder}/{name}")
        yield bpf_folder


def samples(text, parse=parse_openmetrics):
    """{(sample, name of the map): value} of a text that the parser takes, and that has no sample twice."""
    found = [sample for family in parse(text) for sample in family.samples]
    assert len({(sample.name, tuple(sample.labels.items())) for sample in found}) == len(found)
    return {(sample.name, sample.labels.get("name", "")): sample.value for sample in found}


EXPECTED = {
    ("rawbpf_map_elements", "events"): 3,
    ("rawbpf_map_max_entries", "events"): 8,
    ("rawbpf_map_value_bytes", "events"): 12,
    ("rawbpf_map_elements", "full"): 2,
    ("rawbpf_map_max_entries", "full"): 2,
    ("rawbpf_map_value_bytes", "full"): 4,
    ("rawbpf_ring_buffer_pending_bytes", "ring"): 16,
    ("rawbpf_ring_buffer_size_bytes", "ring"): 4096,
    ("rawbpf_ring_buffer_produced_bytes_total", "ring"): 48,
    ("rawbpf_ring_buffer_consumed_bytes_total", "ring"): 32,
    ("rawbpf_metrics_errors", ""): 0,
}


@pytest.mark.parametrize("parse", [parse_openmetrics, parse_text_format])
def test_what_is_known(maps, parse):
    """OpenMetrics' parser and that of Prometheus's older format read every figure; nothing was taken to find it."""
    for _ in range(2):
        found = samples(run("metrics", *(f"{maps}/{name}" for name in ("a", "b", "s", "ring"))), parse)
        assert {key: value for key, value in found.items() if key[0] != "rawbpf_map_memory_bytes"} == EXPECTED
        assert found["rawbpf_map_memory_bytes", "events"] > 9 * 12


def test_types_units_and_labels(maps):
    """Each family says its type and, where it has one, its unit; labels are id, name, type and the first pin."""
    with Queue.open(f"{maps}/a") as q:
        map_id = str(q.id)
    families = {family.name: family for family in parse_openmetrics(run("metrics", f"{maps}/b", f"{maps}/ring"))}
    assert families["rawbpf_map_elements"].type == "gauge"
    assert families["rawbpf_ring_buffer_consumed_bytes"].type == "counter"
    assert {family.unit for family in families.values()} == {"", "bytes"}
    (sample,) = families["rawbpf_map_elements"].samples
    assert sample.labels == {"id": map_id, "name": "events", "type": "queue", "pin": f"{maps}/a"}


def test_all_maps(maps):
    """Without a name all queues, stacks and ring buffers are there."""
    found = samples(run("metrics"))
    assert EXPECTED.items() - {(("rawbpf_metrics_errors", ""), 0)} <= found.items()


def test_labels_are_escaped():
    """Whatever a pin's path has in it, the parser gives it back."""
    with Queue(4, 1, name="m") as q:
        seen = metrics.Seen(q.info(), 'a"b\\c\nd\udcff', None, 0, None)
    (family, *_) = parse_openmetrics("".join(metrics._lines([seen], 0)))
    assert family.samples[0].labels["pin"] == 'a"b\\c\nd\\xff'


def test_a_map_that_is_not_there(maps):
    """The others' figures are printed, the missing one is counted, said on stderr and in the exit code."""
    result = subprocess.run([*COMMAND, "metrics", f"{maps}/none", f"{maps}/a"], capture_output=True, text=True)
    assert result.returncode == 1
    assert samples(result.stdout)["rawbpf_metrics_errors", ""] == 1
    assert samples(result.stdout)["rawbpf_map_elements", "events"] == 3
    assert f"{maps}/none" in result.stderr


def test_other_maps_are_refused():
    """A hash map has no such metrics: an error that says so."""
    with Hash(4, 4, 4) as m:
        assert "neither a queue nor a stack nor a ring buffer" in run("metrics", f"id:{m.id}", code=1)


@pytest.mark.skipif(not IS_ROOT, reason="needs CAP_SETPCAP (root)")
def test_without_the_right_to_count(maps):
    """Whoever may open a pin and no more gets what the kernel says of the map, no count, and why; exit code 4."""
    command = ["setpriv", "--bounding-set=-all,+bpf", "--inh-caps=-all,+bpf", *COMMAND, "metrics", f"{maps}/s"]
    result = subprocess.run(command, capture_output=True, text=True)
    found = samples(result.stdout)
    assert ("rawbpf_map_elements", "full") not in found
    assert (found["rawbpf_map_max_entries", "full"], found["rawbpf_metrics_errors", ""]) == (2, 1)
    assert (result.returncode, "CAP_PERFMON" in result.stderr) == (4, True)


def test_the_file_is_replaced(maps, tmp_path):
    """--output puts a whole new file in the place of the old, which a reader may still have open; nothing else is left,
    also where the file can't be made."""
    path = tmp_path / "rawbpf.prom"
    path.write_text("old")
    with path.open() as reader:
        assert run("metrics", "--output", path, f"{maps}/a") == ""
        assert reader.read() == "old"
    assert samples(path.read_text())["rawbpf_map_elements", "events"] == 3
    assert (os.listdir(tmp_path), stat.S_IMODE(path.stat().st_mode)) == (["rawbpf.prom"], 0o644)
    run("metrics", "--output", tmp_path / "nowhere" / "rawbpf.prom", f"{maps}/a", code=1)


def test_what_is_no_file_is_not_replaced(maps, tmp_path):
    """A folder, a symbolic link, a pipe or a device is refused, and stays what it is: /dev/null is everybody's.

    (Here it is a terminal, in whose folder no file can be made: a test that fails would take /dev/null itself away.)"""
    parent, child = os.openpty()
    folder, link, pipe, device = tmp_path / "folder", tmp_path / "link", tmp_path / "pipe", Path(os.ttyname(child))
    folder.mkdir()
    link.symlink_to("elsewhere")
    os.mkfifo(pipe)
    kinds = {path: stat.S_IFMT(os.lstat(path).st_mode) for path in (folder, link, pipe, device)}
    for path in kinds:
        assert f"{path} is something else" in run("metrics", "--output", path, f"{maps}/a", code=2)
    assert {path: stat.S_IFMT(os.lstat(path).st_mode) for path in kinds} == kinds
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "pipe"]
    os.close(parent)
    os.close(child)


@contextmanager
def listening(*arguments):
    """`rawbpf metrics --listen` and its URL."""
    command = [*COMMAND, "metrics", "--listen", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().removeprefix("listening on ").strip()
        finally:
            process.kill()


def get(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_over_http(maps):
    """Each scrape tells what is there at the time, also of a pin that is removed and made again meanwhile; what is
    missing is said once. SIGTERM ends it with exit code 0."""
    with listening("127.0.0.1:0", f"{maps}/a") as (process, url):
        content_type, text = get(url)
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")
        assert samples(text)["rawbpf_map_elements", "events"] == 3
        os.unlink(f"{maps}/a")
        for _ in range(2):
            assert samples(get(url)[1]) == {("rawbpf_metrics_errors", ""): 1}
        with Queue(4, 2, name="new") as q:
            q.push(b"1234")
            q.pin(f"{maps}/a")
            assert samples(get(url)[1])["rawbpf_map_elements", "new"] == 1
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(url.replace("/metrics", "/other"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr.read().count(f"{maps}/a") == 1


@pytest.mark.parametrize(("given", "shown"), [("0", "http://127.0.0.1:"), ("[::1]:0", "http://[::1]:")])
def test_addresses(maps, given, shown):
    """A port alone is this machine's; an IPv6 address stands in brackets."""
    if "::" in given and not Path("/proc/net/if_inet6").read_text():
        pytest.skip("by design: this machine has no IPv6")
    with listening(given, f"{maps}/s") as (_, url):
        assert url.startswith(shown)
        assert samples(get(url)[1])["rawbpf_map_elements", "full"] == 2


def test_a_silent_client_delays_nobody(maps):
    """While a client has connected and says nothing, others are answered, and SIGTERM ends the server."""
    import socket

    with listening("0", f"{maps}/s") as (process, url):
        host, port = url.removeprefix("http://").removesuffix("/metrics").split(":")
        with socket.create_connection((host, int(port))):
            assert samples(get(url)[1])["rawbpf_map_elements", "full"] == 2
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


@pytest.mark.parametrize("given", ["", "x", "70000", "1.2.3.4:", "-1"])
def test_what_is_no_address(given):
    """What is no port is an error of usage."""
    assert "is not of the form PORT or ADDR:PORT" in run("metrics", f"--listen={given}", code=2)
