"""More than one machine: forwards a queue of the kernel to a Redis stream, and reads that with a consumer group.

    pip install 'rawbpf[redis]'
    python -m rawbpf.examples.forward_redis forward /sys/fs/bpf/events --url redis://broker:6379
    python -m rawbpf.examples.forward_redis consume worker-1 --url redis://broker:6379

At least once: the forwarder takes a batch out of the queue and sends it until Redis says that it has it, waiting longer
after each failure. If an answer was lost on the way, the batch is sent a second time. So each entry carries the name of
its sender (`source`, a new one with each start) and a number that counts the sender's elements (`seq`): an entry with
the source and seq of another one is a duplicate. What was not acknowledged when SIGTERM or SIGINT comes goes back into
the queue, where it is the youngest then; what the queue has no room for any more is printed, and the exit code is 1.

What is not promised: a forwarder that is killed with SIGKILL loses the batch that it has taken, because the kernel
knows no acknowledgement. And Redis keeps what it acknowledged only if it writes it to the disk first: `appendonly yes`,
and on a machine that may lose its power `appendfsync always`.

A consumer acknowledges an entry after it has printed it, and then removes it. What a consumer took and did not
acknowledge within a minute is taken over by the next one that asks. A consumer finds duplicates by the highest seq of
each source, which is right as long as it is the only one. Where several work, store the result under source and seq.
"""

import argparse
import json
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rawbpf
from rawbpf import Stack

# Seconds: between two looks at an empty queue; after the first and at most after a failure; for an answer of Redis.
_IDLE = 0.05
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_ANSWER = 5.0

_GROUP = "rawbpf"


class Forwarder:
    """Moves elements from a queue to a stream. `stopped` is set to end run() between two batches."""

    def __init__(self, m: Any, client: Any, stream: str, batch: int) -> None:
        self.stopped = threading.Event()
        self.acknowledged = 0
        self.left: list[bytes] = []
        self._map = m
        self._client = client
        self._stream = stream
        self._batch = batch
        self._source = uuid.uuid4().hex
        self._next = 1

    def run(self) -> None:
        """Forwards until it is stopped. What is neither acknowledged nor back in the queue then is in `left`."""
        taken: list[bytes] = []
        try:
            while not self.stopped.is_set():
                taken = self._map.pop_many(self._batch)
                if taken and self._deliver(taken):
                    taken = []
                elif not taken:
                    self.stopped.wait(_IDLE)
        finally:
            self.left = taken
            self.left = self._given_back(taken)

    def _deliver(self, values: list[bytes]) -> bool:
        """Sends a batch until Redis has it, always with the same numbers; False if it was stopped before."""
        pause = _FIRST_PAUSE
        while not self._sent(values):
            if self.stopped.wait(pause):
                return False
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._next += len(values)
        self.acknowledged += len(values)
        return True

    def _sent(self, values: list[bytes]) -> bool:
        from redis import exceptions

        # All of them or none (MULTI, EXEC).
        batch = self._client.pipeline(transaction=True)
        for number, value in enumerate(values, self._next):
            batch.xadd(self._stream, {"source": self._source, "seq": number, "value": value})
        try:
            batch.execute()
        except exceptions.AuthenticationError:
            # To ask again would not help.
            raise
        except (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ResponseError) as error:
            print(f"forward: {len(values)} entries wait: {error}", file=sys.stderr, flush=True)
            return False
        return True

    def _given_back(self, values: list[bytes]) -> list[bytes]:
        """Pushes values back, those of a stack in reverse; returns those for which there is no room."""
        again = values[::-1] if isinstance(self._map, Stack) else values
        return again[self._map.push_many(again) :] if again else []


def forward(options: argparse.Namespace, client: Any) -> int:
    """Forwards until SIGTERM or SIGINT."""
    with rawbpf.open_map(options.map) as m:
        forwarder = Forwarder(m, client, options.stream, options.batch)
        try:
            with _signals(forwarder.stopped.set):
                forwarder.run()
        finally:
            print(f"forward: {forwarder.acknowledged} entries acknowledged", file=sys.stderr)
            for value in forwarder.left:
                print(f"0x{value.hex()}")
    return 1 if forwarder.left else 0


def consume(options: argparse.Namespace, client: Any) -> int:
    """Prints entries as JSON until SIGTERM or SIGINT, and acknowledges them."""
    from redis import exceptions

    stopped, last, pause = threading.Event(), dict[str, int](), _FIRST_PAUSE
    with _signals(stopped.set):
        while not stopped.is_set():
            try:
                for number, fields in _entries(client, options):
                    source, seq = fields[b"source"].decode(), int(fields[b"seq"])
                    line = {"source": source, "seq": seq, "value": fields[b"value"].hex()}
                    if seq <= last.get(source, 0):
                        line["duplicate"] = True
                    last[source] = max(seq, last.get(source, 0))
                    print(json.dumps(line), flush=True)
                    done = client.pipeline(transaction=True)
                    done.xack(options.stream, _GROUP, number)
                    done.xdel(options.stream, number)
                    done.execute()
                pause = _FIRST_PAUSE
            except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
                print(f"consume: {error}", file=sys.stderr, flush=True)
                stopped.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
    return 0


def _entries(client: Any, options: argparse.Namespace) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    """Entries for this consumer: those that one took over a minute ago and did not acknowledge, and new ones."""
    from redis import exceptions

    try:
        client.xgroup_create(options.stream, _GROUP, id="0", mkstream=True)
    except exceptions.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
    _, claimed, *_ = client.xautoclaim(options.stream, _GROUP, options.name, min_idle_time=options.idle, count=100)
    yield from claimed
    for _, fresh in client.xreadgroup(_GROUP, options.name, {options.stream: ">"}, count=100, block=200):
        yield from fresh


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call stop(), and raise nothing: what is under way is finished."""
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rawbpf.examples.forward_redis",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="forward|consume")
    forwarding = commands.add_parser("forward", help="from a queue or a stack to the stream")
    forwarding.add_argument("map", help="a pin's path, id:294 or name:events")
    forwarding.add_argument("--batch", type=int, default=500, help="entries sent at once (500)")
    forwarding.set_defaults(run=forward)
    consuming = commands.add_parser("consume", help="from the stream to stdout")
    consuming.add_argument("name", help="the consumer's name within the group")
    consuming.add_argument("--idle", type=int, default=60_000, help="take over after so many milliseconds (60000)")
    consuming.set_defaults(run=consume)
    for command in (forwarding, consuming):
        command.add_argument("--url", default="redis://127.0.0.1:6379", help="where Redis is")
        command.add_argument("--stream", default="rawbpf", help="the stream's key")
    options = parser.parse_args()
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        parser.error(f"it needs the redis package: pip install 'rawbpf[redis]' ({error})")
    # Trying again is done here, where it can be stopped.
    client = redis.Redis.from_url(
        options.url, socket_timeout=_ANSWER, socket_connect_timeout=_ANSWER, retry=Retry(NoBackoff(), 0)
    )
    with client:
        code: int = options.run(options, client)
    return code


if __name__ == "__main__":
    sys.exit(main())
