"""The numbers of system calls, for machines on which no C compiler could be asked for __NR_bpf."""

import re

# The numbers of bpf(2) and perf_event_open(2) on each family of machines, by the size of a pointer in bytes: a 32-bit
# Python on an x86-64 is an i386. The two 32-bit ABIs of a mips64 have two numbers, and nothing here tells which of them
# it is.
_NUMBERS = (
    (r"x86_64|i[3-6]86", {8: (321, 298), 4: (357, 336)}),
    (r"aarch64.*|arm.*", {8: (280, 241), 4: (386, 364)}),
    (r"riscv.*|loongarch.*", {8: (280, 241), 4: (280, 241)}),
    (r"ppc.*", {8: (361, 319), 4: (361, 319)}),
    (r"s390.*", {8: (351, 331), 4: (351, 331)}),
    (r"sparc.*", {8: (349, 327), 4: (349, 327)}),
    (r"mips64", {8: (5315, 5292)}),
    (r"mips", {4: (4355, 4333)}),
)


def syscall_number(machine: str, pointer_size: int, name: str = "bpf") -> int | None:
    """The number of bpf(2) or perf_event_open(2) on a machine, as uname(2) names it, for programs with pointers of so
    many bytes; or None."""
    for pattern, numbers in _NUMBERS:
        if re.fullmatch(pattern, machine):
            both = numbers.get(pointer_size, (None, None))
            return both[("bpf", "perf_event_open").index(name)]
    return None
