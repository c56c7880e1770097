"""What probes, perf events and netfilter programs are attached to: as text, in the words of section names, and parsed.

    program.attach("kprobe/do_nanosleep+0x8")              the same as program.attach(Kprobe("do_nanosleep", 8))
    program.attach("uretprobe/libc.so.6:malloc")           the same as program.attach(Uprobe("libc.so.6", "malloc",
                                                                                             returns=True))
    program.attach(Uprobe("/bin/bash", "readline", pid=7))

Source: Documentation/bpf/libbpf/program_types.rst.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Kprobe(NamedTuple):
    """A place in the kernel: a function by its name ("do_nanosleep", "module:name") or its address, and an offset in
    bytes into it; or, with `returns`, where it returns. Linux 4.17.

    >>> str(parse("kprobe/do_nanosleep+0x8"))
    'kprobe do_nanosleep+0x8'
    """

    function: str | int
    offset: int = 0
    returns: bool = False

    def __str__(self) -> str:
        return f"{'kretprobe' if self.returns else 'kprobe'} {_place(self.function, self.offset)}"


class KprobeMulti(NamedTuple):
    """Many of the kernel's functions at once: a pattern of their names ("vfs_*"), or names or addresses one by one.
    With `returns` where they return. `cookies` has a number for each function that is given one by one. Linux 5.18.

    >>> parse("kretprobe.multi/vfs_*")
    KprobeMulti(functions='vfs_*', returns=True, cookies=())
    """

    functions: str | Sequence[str | int]
    returns: bool = False
    cookies: Sequence[int] = ()

    def __str__(self) -> str:
        return f"{'kretprobe' if self.returns else 'kprobe'}.multi {_names(self.functions)}"


class Ksyscall(NamedTuple):
    """A system call by its name in man pages ("openat"): the function has another name on each kind of machine.

    >>> parse("kretsyscall/openat")
    Ksyscall(name='openat', returns=True)
    """

    name: str
    returns: bool = False

    def __str__(self) -> str:
        return f"{'kretsyscall' if self.returns else 'ksyscall'} {self.name}"


class Uprobe(NamedTuple):
    """A place in a program or a library: a function of the file `path`, and an offset in bytes into it; without a
    function the offset is the file's. With `returns` where the function returns. `path` may be a name that the system
    finds ("bash", "libc.so.6"). `pid` is the one process that is meant, None all of them. Linux 4.17.

    >>> parse("uprobe//bin/bash:readline")
    Uprobe(path='/bin/bash', function='readline', offset=0, returns=False, pid=None)
    """

    path: str
    function: str = ""
    offset: int = 0
    returns: bool = False
    pid: int | None = None

    def __str__(self) -> str:
        process = "" if self.pid is None else f" of process {self.pid}"
        place = _place(self.function, self.offset)
        return f"{'uretprobe' if self.returns else 'uprobe'} {self.path}:{place}{process}"


class UprobeMulti(NamedTuple):
    """Many functions of a program or library at once: a pattern of their names, or names or offsets in the file one by
    one. The rest is as in Uprobe and KprobeMulti. Linux 6.6.

    >>> parse("uprobe.multi/libc.so.6:mem*").functions
    'mem*'
    """

    path: str
    functions: str | Sequence[str | int]
    returns: bool = False
    cookies: Sequence[int] = ()
    pid: int | None = None

    def __str__(self) -> str:
        process = "" if self.pid is None else f" of process {self.pid}"
        return f"{'uretprobe' if self.returns else 'uprobe'}.multi {self.path}:{_names(self.functions)}{process}"


class PerfEvent(NamedTuple):
    """A counter: `event_type` and `config` are PERF_TYPE_* and PERF_COUNT_* of <linux/perf_event.h>. The program runs
    once in `sample_period` of what is counted, or `sample_freq` times a second. `pid` and `cpu` -1 are all of them, but
    one of the two has to be named.

    Clocks count nanoseconds. A `sample_period` of some thousand of them is so short that the processor does nothing
    else any more, and no signal ends that: give `sample_freq`, which kernel.perf_event_max_sample_rate limits.

    >>> str(PerfEvent(1, 0, sample_freq=99, cpu=0))  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK
    'perf event 1:0x0 of cpu 0'
    """

    event_type: int
    config: int
    sample_period: int = 0
    sample_freq: int = 0
    pid: int = -1
    cpu: int = -1

    def __str__(self) -> str:
        where = [f"{name} {number}" for name, number in (("process", self.pid), ("cpu", self.cpu)) if number >= 0]
        return f"perf event {self.event_type}:{self.config:#x} of {' on '.join(where) or 'everything'}"


class NetfilterHook(NamedTuple):
    """A hook of netfilter in this network namespace. `pf` is 2 for IPv4 and 10 for IPv6, `hooknum` 0 to 4 for
    PRE_ROUTING, LOCAL_IN, FORWARD, LOCAL_OUT and POST_ROUTING. Programs run in the order of `priority`, which no two of
    a hook may share. `flags` may be BPF_F_NETFILTER_IP_DEFRAG (1). Linux 6.4.

    >>> str(NetfilterHook(2, 1, priority=-100))
    'netfilter hook 1 of protocol family 2 at priority -100'
    """

    pf: int
    hooknum: int
    priority: int = 0
    flags: int = 0

    def __str__(self) -> str:
        return f"netfilter hook {self.hooknum} of protocol family {self.pf} at priority {self.priority}"


NO_USDT = "rawbpf does not attach to USDT probes; a uprobe at the probe's offset is the same"

Probe = Kprobe | KprobeMulti | Ksyscall | Uprobe | UprobeMulti


def _place(function: str | int, offset: int) -> str:
    name = hex(function) if isinstance(function, int) else function
    if not name:
        return hex(offset)
    return f"{name}+{offset:#x}" if offset else name


def _names(functions: str | Sequence[str | int]) -> str:
    if isinstance(functions, str):
        return functions
    names = [name if isinstance(name, str) else hex(name) for name in functions[:3]]
    return ", ".join(names) + (f" and {len(functions) - 3} more" if len(functions) > 3 else "")


# Text


def parse(text: str) -> Probe:
    """A probe from its text: the word of its kind, "/", and the place. ValueError for a text that is none."""
    kind, _, place = text.partition("/")
    # ".s" marks programs that may sleep, which is a matter of loading alone.
    if kind == "usdt":
        raise ValueError(f"{text!r}: {NO_USDT}")
    if kind.removesuffix(".s") not in _KINDS:
        known = ", ".join(_KINDS)
        raise ValueError(f"{text!r}: a probe begins with its kind and '/', which is one of {known}")
    make, returns = _KINDS[kind.removesuffix(".s")]
    if not place:
        raise ValueError(f"{text!r} names no place behind the '/'")
    return make(text, place, returns)


def _kprobe(text: str, place: str, returns: bool) -> Kprobe:
    function, offset = _function(text, place)
    _check_return(text, offset, returns)
    return Kprobe(_number(text, function) if function.startswith("0x") else function, offset, returns)


def _kprobe_multi(text: str, place: str, returns: bool) -> KprobeMulti:
    return KprobeMulti(place, returns)


def _ksyscall(text: str, place: str, returns: bool) -> Ksyscall:
    return Ksyscall(place, returns)


def _uprobe(text: str, place: str, returns: bool) -> Uprobe:
    path, name = _path(text, place)
    if re.match(r"\d", name):
        return Uprobe(path, "", _number(text, name), returns)
    function, offset = _function(text, name)
    _check_return(text, offset, returns)
    return Uprobe(path, function, offset, returns)


def _uprobe_multi(text: str, place: str, returns: bool) -> UprobeMulti:
    path, pattern = _path(text, place)
    return UprobeMulti(path, pattern, returns)


def _path(text: str, place: str) -> tuple[str, str]:
    path, _, name = place.rpartition(":")
    if not path or not name:
        raise ValueError(f"{text!r}: a uprobe is PATH:FUNCTION or PATH:OFFSET")
    return path, name


def _function(text: str, place: str) -> tuple[str, int]:
    function, plus, offset = place.partition("+")
    if not function:
        raise ValueError(f"{text!r} names no function")
    return function, _number(text, offset) if plus else 0


def _number(text: str, number: str) -> int:
    try:
        return int(number, 0)
    except ValueError:
        raise ValueError(f"{text!r}: the offset {number!r} is no number") from None


def _check_return(text: str, offset: int, returns: bool) -> None:
    if returns and offset:
        raise ValueError(f"{text!r}: a function's return has no offset")


_KINDS: dict[str, tuple[Callable[[str, str, bool], Probe], bool]] = {
    "kprobe": (_kprobe, False),
    "kretprobe": (_kprobe, True),
    "kprobe.multi": (_kprobe_multi, False),
    "kretprobe.multi": (_kprobe_multi, True),
    "kprobe.session": (_kprobe_multi, False),
    "ksyscall": (_ksyscall, False),
    "kretsyscall": (_ksyscall, True),
    "uprobe": (_uprobe, False),
    "uretprobe": (_uprobe, True),
    "uprobe.multi": (_uprobe_multi, False),
    "uretprobe.multi": (_uprobe_multi, True),
    "uprobe.session": (_uprobe_multi, False),
}
