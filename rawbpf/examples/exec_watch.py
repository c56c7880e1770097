"""Every exec on the system, as it happens: a program at a raw tracepoint fills a queue, Python prints what comes.

    python -m rawbpf.examples.exec_watch                      the program is made here, of instructions
    python -m rawbpf.examples.exec_watch exec_watch.bpf.o     the same from exec_watch.bpf.c, compiled

Both push a process's pid, its parent's and the command, with BPF_EXIST: if nobody drains the queue, the newest stay.
Needs CAP_BPF and CAP_PERFMON, Linux 5.8 and the kernel's BTF.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rawbpf import BPF_EXIST, ProgType, Queue
from rawbpf.btf.reader import vmlinux
from rawbpf.maps.queue_stack import QueueOrStack
from rawbpf.objects.object_file import ObjectFile
from rawbpf.programs.asm import R0, R1, R2, R3, R6, R10, Helper, Item, add, alu, call, exit_, load, load_map, mov, store
from rawbpf.programs.program import Program

TRACEPOINT = "sched_process_exec"

# The event, as struct event of exec_watch.bpf.c has it: pid, parent, command.
EVENT = "=II16s"
MAX_ENTRIES = 4096

# Where the event lies on the program's stack, below the frame pointer R10; beneath it 8 bytes for a pointer.
PID, PARENT, COMMAND, POINTER = -24, -20, -16, -32


def instructions(queue: "Queue[Any]") -> list[Item]:
    """About what clang makes of exec_watch.bpf.c."""
    real_parent = vmlinux().offset_of("task_struct", "real_parent")
    tgid = vmlinux().offset_of("task_struct", "tgid")
    return [
        # The tracepoint's first argument: the task.
        load("u64", R6, R1),
        call(Helper.BPF_FUNC_get_current_pid_tgid),
        alu(">>=", R0, 32),
        store("u32", R10, PID, R0),
        # Its parent, and that one's pid.
        mov(R1, R10),
        add(R1, POINTER),
        mov(R2, 8),
        mov(R3, R6),
        add(R3, real_parent),
        call(Helper.BPF_FUNC_probe_read_kernel),
        mov(R1, R10),
        add(R1, PARENT),
        mov(R2, 4),
        load("u64", R3, R10, POINTER),
        add(R3, tgid),
        call(Helper.BPF_FUNC_probe_read_kernel),
        # The command. Linux 6.1 leaves the bytes behind its NUL as they are; older and newer ones fill them with zeros.
        store("u64", R10, COMMAND, 0),
        store("u64", R10, COMMAND + 8, 0),
        mov(R1, R10),
        add(R1, COMMAND),
        mov(R2, 16),
        call(Helper.BPF_FUNC_get_current_comm),
        load_map(R1, queue.fileno()),
        mov(R2, R10),
        add(R2, PID),
        mov(R3, BPF_EXIST),
        call(Helper.BPF_FUNC_map_push_elem),
        mov(R0, 0),
        exit_(),
    ]


@contextmanager
def watch_by_instructions(max_entries: int = MAX_ENTRIES) -> "Iterator[Queue[Any]]":
    """The queue, filled as long as this lasts."""
    with (
        Queue(EVENT, max_entries, name="queue") as queue,
        Program(ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT, instructions(queue), name="on_exec") as program,
        program.attach(TRACEPOINT),
    ):
        yield queue


@contextmanager
def watch_by_object(path: str) -> "Iterator[QueueOrStack[Any]]":
    """The same with the compiled C file. Its constants get the running kernel's offsets before it is loaded."""
    offsets = {f"{member}_offset": vmlinux().offset_of("task_struct", member) for member in ("real_parent", "tgid")}
    with ObjectFile.load(path, variables=offsets) as file:
        file.attach()
        yield file.maps["queue"]


def main(arguments: list[str]) -> int:
    """Prints a line for each exec until Ctrl-C."""
    watch = watch_by_object(arguments[0]) if arguments else watch_by_instructions()
    with watch as queue:
        print(f"{'PID':>8} {'PARENT':>8} COMMAND", flush=True)
        try:
            for pid, parent, command in queue.follow():
                print(f"{pid:8} {parent:8} {command.rstrip(bytes(1)).decode(errors='replace')}", flush=True)
        except KeyboardInterrupt:
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
