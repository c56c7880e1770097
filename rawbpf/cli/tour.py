"""The guided tour of the bpf(2) ABI: a queue and a stack at work, call by call.

Each step is a line of Python that is really run. Under it stand what it returned, the system calls that it made, as
strace would print them, with the bytes of each value, some attrs drawn byte by byte, what to notice, and the map's ring
as it is afterwards. Where the kernel refuses this process the simulated kernel answers instead, and the tour says so.
"""

import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

from rawbpf.abi import BPF_ANY, BPF_EXIST
from rawbpf.cli.output import BOLD, DIM, redraw, say
from rawbpf.maps import bpffs
from rawbpf.maps.queue_stack import Queue, Stack
from rawbpf.observe.ring_drawing import draw_ring
from rawbpf.observe.simulator import NEWEST, simulate
from rawbpf.observe.tracer import trace
from rawbpf.syscall.errors import BpfError

WIDTH = 80

# How a line begins that shows the bytes behind an address.
_POINTED_AT = ("    key -> ", "    value -> ")


class Step(NamedTuple):
    """A line of Python, what to notice about it, and whether the attr of its first call is drawn."""

    code: str
    notice: str = ""
    draw: bool = False


_QUEUE = (
    Step(
        'q = Queue(4, 3, name="tour_queue")',
        "Two calls. The first makes the map. It sends the whole union bpf_attr, though the command reads 92 bytes of "
        "it, and an older kernel fewer: every kernel accepts zeros behind what it knows, up to a page, and answers "
        "E2BIG to anything else there. key_size is 0: a queue has no keys. The second asks the kernel what it made. "
        "Below is the map's ring, as the kernel has it: max_entries slots and one more. Those in parentheses are free.",
        draw=True,
    ),
    Step(
        'q.push(b"\\x01\\x00\\x00\\x00")',
        "To push is to update an element. There is no key, so its pointer is NULL; the value travels as an address. "
        "Every pointer has 64 bits and is aligned to 8 bytes, also on a 32-bit machine: hence the padding.",
        draw=True,
    ),
    Step('q.push(b"\\x02\\x00\\x00\\x00"); q.push(b"\\x03\\x00\\x00\\x00")'),
    Step(
        'q.push(b"\\x04\\x00\\x00\\x00", BPF_ANY)',
        'The map is full. The errno is E2BIG, which strerror(3) reads as "Argument list too long"; it means full.',
    ),
    Step(
        'q.push(b"\\x04\\x00\\x00\\x00", BPF_EXIST)',
        "With BPF_EXIST the push succeeds. The new element went into the free slot, 3, and tail moved on from slot 0: "
        "the oldest element, 1, is out of the ring. Its bytes are still in slot 0, which is the free one now, until "
        "the next push writes there.",
    ),
    Step("q.peek()", "To peek is to look an element up, and to leave it there."),
    Step(
        "q.pop()",
        "To pop is to look up and delete in one call; Linux 4.20 made it for these maps. Nothing is erased: tail moves "
        "on.",
        draw=True,
    ),
    Step("q.pop(), q.pop()"),
    Step("q.pop()", "Empty is ENOENT. With a default there is no exception:"),
    Step("q.pop(default=None) is None"),
    Step("q.close()", "No bpf(2) call: a map ends with its last descriptor, pin and program."),
)

_STACK = (
    Step('s = Stack("<I", 3, name="tour_stack")', "Another map_type, and values of a struct format: integers here."),
    Step("s.push(1); s.push(2); s.push(3); s.push(4, BPF_EXIST)", "A full stack drops its oldest too: the bottom, 1."),
    Step("s.pop(), s.pop(), s.pop()", "Last in, first out: a stack's pop moves head back."),
    Step("s.close()"),
)

_SHARING = (
    Step('q = Queue("<I", 3, name="tour_shared")'),
    Step(
        "q.pin(path)",
        "A pin is a name for the map in a bpffs, a file system for that. The attr has the path's address; a pin "
        "outlives the descriptor.",
        draw=True,
    ),
    Step(
        "in_another_process(push_42, path)",
        "The calls of the other process: it opens the pin, asks for the sizes, and pushes.",
    ),
    Step("q.pop()", "What one process pushed another popped."),
    Step("os.unlink(path); q.close()"),
)


def main(simulated: bool = False, step: bool = False) -> int:
    """Runs the tour on stdout and returns 0. `simulated`: on the simulated kernel in any case; `step`: wait for a key
    after each step."""
    reason = "as you asked" if simulated else refusal()
    tour = Tour(step)
    with simulate() if reason else nullcontext(None) as kernel, closing(tour), suppress(Quit):
        tour.say(_where(reason))
        _chapters(tour, kernel.bpffs if kernel else None)
    tour.say("The maps are gone with their last descriptor; nothing is left behind.")
    return 0


def _chapters(tour: "Tour", simulated: str | None) -> None:
    tour.chapter("A queue: first in, first out. Room for 3 values of 4 bytes.", _QUEUE)
    tour.chapter("A stack: last in, first out.", _STACK)
    with _pins(simulated) as folder:
        if folder is None:
            tour.say("Sharing a map through a pin is left out: mounting a bpffs needs CAP_SYS_ADMIN.")
        else:
            tour.names["path"] = os.path.join(folder, "tour_queue")
            tour.chapter("A queue shared with another process, through a pin.", _SHARING)


def refusal() -> str:
    """Why the running kernel does not let this process make a queue; "" if it does."""
    try:
        Queue(4, 1).close()
    except BpfError as error:
        return f"{error.strerror}: {error.hint}" if error.hint else str(error)
    return ""


def _where(reason: str) -> str:
    if not reason:
        return f"This tour runs on the running kernel, Linux {os.uname().release}."
    return (
        f"This tour runs on a simulated kernel, in this process, which answers as Linux {NEWEST} does. Why not on the "
        f"real one: {reason}."
    )


@contextmanager
def _pins(simulated: str | None) -> Iterator[str | None]:
    """A folder for pins: the simulated kernel's, a new bpffs, or None where none may be mounted."""
    if simulated is not None:
        yield simulated
        return
    try:
        mount = bpffs.mounted()
        folder = mount.__enter__()
    except OSError:
        yield None
        return
    try:
        yield folder
    finally:
        mount.__exit__(None, None, None)


# What the steps call


def push_42(path: str) -> None:
    """What the other process does."""
    with Queue.open(path, "<I") as q:
        q.push(42)


def in_another_process(work: Callable[[str], None], path: str) -> str:
    """Runs work(path) in a child process, and waits for it."""
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            calls = io.StringIO()
            with trace(calls):
                work(path)
            os.write(writer, calls.getvalue().encode())
        finally:
            # Whatever was raised: what comes next is the parent's.
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        calls_there = pipe.read()
    os.waitpid(child, 0)
    return f"in process {child}:\n{calls_there}"


class Tour:
    """Runs and prints steps. `names` is what their code sees."""

    def __init__(self, step: bool) -> None:
        self.names: dict[str, Any] = {
            "BPF_ANY": BPF_ANY,
            "BPF_EXIST": BPF_EXIST,
            "Queue": Queue,
            "Stack": Stack,
            "in_another_process": in_another_process,
            "os": os,
            "push_42": push_42,
        }
        self._wait = step and sys.stdin.isatty()
        # Whether rings can be drawn here, and the one that was drawn last.
        self._rings = True
        self._ring = ""

    def say(self, text: str) -> None:
        """A paragraph."""
        say(textwrap.fill(text, WIDTH) + "\n")

    def chapter(self, title: str, steps: tuple[Step, ...]) -> None:
        """A title and its steps."""
        say(f"{title}\n{'-' * len(title)}", BOLD)
        say()
        for step in steps:
            self._show(step)

    def _show(self, step: Step) -> None:
        say(f">>> {step.code}", BOLD)
        calls = io.StringIO()
        with trace(calls, attrs=True):
            outcome = self._run(step.code)
        if outcome:
            say("\n".join(textwrap.wrap(outcome, WIDTH)) if "\n" not in outcome else _folded(outcome))
        for number, call in enumerate(re.split(r"(?m)^(?=bpf\()", calls.getvalue())[1:]):
            line, *drawing = call.rstrip("\n").split("\n")
            say(_folded(f"  {line}"))
            is_drawn = step.draw and number == 0
            shown = [each for each in drawing if is_drawn or each.startswith(_POINTED_AT)]
            if shown:
                say(textwrap.indent(textwrap.dedent("\n".join(shown)), "" if is_drawn else "      "), DIM)
        if step.notice:
            say(textwrap.fill(step.notice, WIDTH, initial_indent="  # ", subsequent_indent="  # "))
        self._show_ring()
        say()
        if self._wait:
            _wait_for_a_key()

    def _show_ring(self) -> None:
        """The ring of the map that is open, if the step changed it."""
        for m in self._maps() if self._rings else ():
            try:
                ring = draw_ring(m)
            except ValueError:
                continue  # closed
            except BpfError as error:
                self._rings = False
                say(textwrap.fill(f"(The ring is not drawn: {error})", WIDTH))
                return
            if ring != self._ring:
                self._ring = ring
                say(ring)

    def _maps(self) -> list[Any]:
        return [self.names[name] for name in ("q", "s") if name in self.names]

    def close(self) -> None:
        """Closes what a tour that was left early has open."""
        for m in self._maps():
            m.close()

    def _run(self, code: str) -> str:
        """Runs the line; returns what an interactive Python would print."""
        try:
            expression = compile(code, "<tour>", "eval")
        except SyntaxError:
            expression = None
        try:
            if expression is None:
                exec(code, self.names)
                return ""
            value = eval(expression, self.names)
        except BpfError as error:
            return f"{type(error).__name__}: {error}"
        return "" if value is None else value if isinstance(value, str) else repr(value)


def _folded(text: str) -> str:
    """Each line in as many as WIDTH takes; a call's result is not parted from what precedes it."""
    lines = text.rstrip("\n").replace(" = ", "\0=\0").split("\n")
    folded = [textwrap.fill(line, WIDTH, subsequent_indent="      ", break_on_hyphens=False) for line in lines]
    return "\n".join(folded).replace("\0", " ")


class Quit(Exception):
    """The key q was pressed."""


_PROMPT = "-- any key goes on, q quits --"


def _wait_for_a_key() -> None:
    """Shows a prompt until a key is pressed; raises Quit if that is q. Ctrl-C is Ctrl-C."""
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    # Now, without a flush: a key that was pressed early counts.
    tty.setcbreak(terminal, termios.TCSANOW)
    try:
        redraw(_PROMPT, sys.stdout)
        key = os.read(terminal, 1)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        redraw("", sys.stdout)
    # Nothing comes from a terminal that is gone.
    if key in (b"q", b"Q", b""):
        raise Quit
