"""The number of bpf(2), for machines on which no C compiler could be asked for __NR_bpf."""

import re

# The number of bpf(2) on each family of machines, by the size of a pointer in bytes: a 32-bit Python on an x86-64 is an
# i386. The two 32-bit ABIs of a mips64 have two numbers, and nothing here tells which of them it is.
_NUMBERS = (
    (r"x86_64|i[3-6]86", {8: 321, 4: 357}),
    (r"aarch64.*|arm.*", {8: 280, 4: 386}),
    (r"riscv.*|loongarch.*", {8: 280, 4: 280}),
    (r"ppc.*", {8: 361, 4: 361}),
    (r"s390.*", {8: 351, 4: 351}),
    (r"sparc.*", {8: 349, 4: 349}),
    (r"mips64", {8: 5315}),
    (r"mips", {4: 4355}),
)


def syscall_number(machine: str, pointer_size: int) -> int | None:
    """The number of bpf(2) on a machine, as uname(2) names it, for programs with pointers of so many bytes; or None."""
    for pattern, numbers in _NUMBERS:
        if re.fullmatch(pattern, machine):
            return numbers.get(pointer_size)
    return None
