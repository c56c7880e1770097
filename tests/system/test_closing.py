"""A map that is closed, or an interpreter that ends, while calls on the map are under way."""

import shutil
import subprocess
import sys
import threading
import time

import pytest

from rawbpf import BPF_EXIST
from tests.conftest import SECONDS, SLOWNESS, rounds

pytestmark = [pytest.mark.creates, pytest.mark.real_kernel(reason="other threads and processes, and strace, see it")]

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

BULK_CALLS = {
    "pop_many": lambda m, buffer: m.pop_many(100),
    "pop_into": lambda m, buffer: m.pop_into(buffer),
    "push_many": lambda m, buffer: m.push_many(range(100), BPF_EXIST),
    "drain": lambda m, buffer: list(m.drain()),
}


@pytest.mark.parametrize("call", BULK_CALLS)
def test_close_during_bulk_calls(kind, call):
    """A bulk call on a map that another thread closes returns what it has, or is ValueError "closed": never EBADF,
    which would blame somebody else."""
    answers = []

    def use(m):
        buffer = bytearray(4 * 100)
        try:
            while True:
                BULK_CALLS[call](m, buffer)
        except Exception as error:
            answers.append(error)

    for _ in rounds(lambda: len(answers) >= 100, min(SECONDS, 2)):
        m = kind("<I", 1000)
        thread = threading.Thread(target=use, args=(m,))
        thread.start()
        time.sleep(0.0005)
        m.close()
        thread.join()
    assert {(type(error), "is closed" in str(error)) for error in answers} == {(ValueError, True)}


DAEMON = '''
import os, threading, time
from rawbpf import Queue
q = Queue("<Q", 1000)
class AtTheEnd:
    def __del__(self, q=q, write=os.write):
        q.close()
        write(1, b"closed")
at_the_end = AtTheEnd()
# In a namespace of its own, as the threads keep theirs alive.
bulk = """
while True:
    q.push_many(range(100)); q.pop_many(100)
"""
for _ in range(2):
    threading.Thread(target=exec, args=(bulk, {"q": q}), daemon=True).start()
time.sleep(0.05)
'''


def test_close_at_the_end_of_the_interpreter():
    """Daemon threads that die within a bulk call do not keep close() waiting when the interpreter ends."""
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", DAEMON], capture_output=True, text=True, timeout=20 * SLOWNESS, check=False
        )
        assert (done.returncode, done.stdout) == (0, "closed"), done.stderr


ASKED_WHILE_CLOSED = """
import threading, time
from rawbpf import Queue
small, large = Queue(4, 3), Queue(4, 600)
small.push(b"abcd")
large.push_many([b"abcd"] * 600)
small.{call}; large.{call}
answers = []
def ask():
    try: answers.append(small.{call})
    except ValueError as error: answers.append(type(error).__name__)
thread = threading.Thread(target=ask)
thread.start()
time.sleep(0.3)
small.close()
other = Queue(4, 600)
other.push_many([b"abcd"] * 600)
assert other.{call} == large.{call}
thread.join()
print(answers)
large.close(); other.close()
"""


@needs_strace
@pytest.mark.parametrize(("call", "answer"), [("qsize()", 1), ("snapshot()", [b"abcd"])])
def test_close_while_the_elements_are_counted(tmp_path, call, answer):
    """qsize() and snapshot() tell of their own map or are ValueError, whatever becomes of the numbers of their
    descriptors. strace holds the first bpf(2) of the asking thread for 0.6 s; it is closed after 0.3 s."""
    code = ASKED_WHILE_CLOSED.format(call=call)
    delayed = ["strace", "-f", "-o", str(tmp_path / "log"), "-e", "trace=bpf"]
    delayed += ["-e", "inject=bpf:delay_enter=600000:when=1"]
    done = subprocess.run(
        [*delayed, sys.executable, "-c", code], capture_output=True, text=True, timeout=60 * SLOWNESS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout in (f"{[answer]}\n", "['ValueError']\n")
