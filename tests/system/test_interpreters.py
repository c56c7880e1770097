"""Several interpreters in one process: a call either is made or is an error, and never invents its answer."""

import subprocess
import sys

import pytest

from tests.conftest import FREE_THREADED

pytestmark = [pytest.mark.creates, pytest.mark.real_kernel(reason="it is asked from several interpreters")]

# Two interpreters beside the main one, which never imports rawbpf. CPython 3.12 wants to be told that extension modules
# as ours, which share their state, may be loaded there.
PROGRAM = """
import sys
if sys.version_info >= (3, 13):
    import _interpreters as interpreters
    create = lambda: interpreters.create("legacy")
else:
    import _xxsubinterpreters as interpreters
    create = (lambda: interpreters.create(isolated=False)) if sys.version_info >= (3, 12) else interpreters.create
code = '''
import io, sys, rawbpf
try:
    with rawbpf.Queue(4, 4) as q, rawbpf.trace(io.StringIO()):
        q.push(b"abcd")
        print("popped", q.pop())
except RuntimeError as error:
    print("refused", error)
sys.stdout.flush()
'''
for interpreter in [create(), create()] * 2:
    interpreters.run_string(interpreter, code)
"""


@pytest.mark.skipif(FREE_THREADED, reason="by design: cffi refuses other interpreters where there is no GIL")
def test_a_hook_of_another_interpreter():
    """trace() in two interpreters of one process: what can't be asked from there is an error that says so; no push
    vanishes, and no pop answers zeros."""
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 4, run
    refused = "refused trace() or simulate() is at work in another interpreter of this process, and can't be asked from"
    assert all(line == "popped b'abcd'" or line.startswith(refused) for line in lines), lines
