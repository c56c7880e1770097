"""The kernel's configuration: what `extern ... CONFIG_HZ __kconfig;` and the like are in a C file.

CONFIG_ names come from /boot/config-RELEASE, or else from /proc/config.gz. Three others are libbpf's own:
LINUX_KERNEL_VERSION, LINUX_HAS_BPF_COOKIE (bpf_get_attach_cookie() can be called), LINUX_HAS_SYSCALL_WRAPPER (a kprobe
on a system call finds it as __x64_sys_NAME, its arguments behind a pointer).
"""

import errno
import gzip
import os
import re
import sys
from collections.abc import Callable, Container, Mapping
from pathlib import Path

from rawbpf.abi import ProgType
from rawbpf.btf.reader import Btf, Kind, Type
from rawbpf.objects.elf import ObjectFileError
from rawbpf.objects.object_btf import Extern
from rawbpf.programs.asm import Helper, call, exit_
from rawbpf.programs.program import Program
from rawbpf.syscall.errors import BpfError

_KALLSYMS = "/proc/kallsyms"
_KPROBES = "/sys/bus/event_source/devices/kprobe"

# How the wrappers of system calls are named, by machine.
_WRAPPERS = {"x86_64": "__x64_", "aarch64": "__arm64_", "s390x": "__s390x_", "riscv64": "__riscv_"}

_NUMBER = re.compile(r"-?(0x[0-9a-fA-F]+|0|[1-9]\d*)")
_TRISTATE = {"n": 0, "y": 1, "m": 2}


def kconfig_values(btf: Btf, externs: Mapping[str, Extern], given: Container[str]) -> dict[str, bytes]:
    """The values of the __kconfig externs that are not given, by name; what is weak and not set is left out: zero.

    Raises ObjectFileError for one that is not set, not known, or has another type.
    """
    wanted = {name: extern for name, extern in externs.items() if extern.offset is not None and name not in given}
    configured = _configuration() if any(name.startswith("CONFIG_") for name in wanted) else {}
    values = {}
    for name, extern in wanted.items():
        text = str(_OWN[name]()) if name in _OWN else configured.get(name)
        if text is not None:
            values[name] = _encoded(btf, extern, text)
        elif not extern.is_weak:
            what = "this kernel's configuration does not set it" if name.startswith("CONFIG_") else "it is not known"
            raise ObjectFileError(f"extern {name!r} (__kconfig): {what}; declared __weak it would be zero")
    return values


def _configuration() -> dict[str, str]:
    """The CONFIG_ names that are set, with their values as they are written."""
    for path in (Path(f"/boot/config-{os.uname().release}"), Path("/proc/config.gz")):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "replace")
        return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE))
    raise ObjectFileError("the kernel's configuration is neither in /boot nor in /proc/config.gz")


def _encoded(btf: Btf, extern: Extern, text: str) -> bytes:
    """The value as the C type has it: y, n and m for bool, char and enum libbpf_tristate, numbers, quoted text."""
    found, size = btf.resolve(extern.type_id), btf.size_of(extern.type_id)
    if text.startswith('"') and found.kind == Kind.ARRAY:
        return text.strip('"').encode()[: size - 1].ljust(size, b"\0")
    if text in _TRISTATE:
        number = _of_tristate(btf, found, text)
    else:
        number = int(text, 0) if found.kind == Kind.INT and _NUMBER.fullmatch(text) else None
    try:
        if number is None or (number > 1 and btf.integer(found).boolean):
            raise OverflowError
        if size == 8 and number >> 64 in (0, -1):
            # The same 64 bits with or without a sign, as with libbpf: CONFIG_ILLEGAL_POINTER_VALUE=0xdead000000000000.
            return (number & (1 << 64) - 1).to_bytes(size, sys.byteorder)
        return number.to_bytes(size, sys.byteorder, signed=found.kind == Kind.INT and btf.integer(found).signed)
    except OverflowError:
        raise ObjectFileError(f"extern {extern.name!r} (__kconfig) is {text}: its type in C can't hold that") from None


def _of_tristate(btf: Btf, found: Type, text: str) -> int | None:
    if found.kind in (Kind.ENUM, Kind.ENUM64) and found.name == "libbpf_tristate":
        return _TRISTATE[text]
    if found.kind != Kind.INT or found.size != 1:
        return None
    if btf.integer(found).boolean:
        return None if text == "m" else _TRISTATE[text]
    return ord(text)


# libbpf's own


def _kernel_version() -> int:
    """KERNEL_VERSION(6, 18, 3). Debian and Ubuntu name another version than the kernel's in uname, and the kernel's own
    elsewhere."""
    version = os.uname()
    signature = Path("/proc/version_signature")
    text = signature.read_text().split()[-1] if signature.exists() else version.release
    if debian := re.search(r"Debian (\d+\.\d+\.\d+)", version.version):
        text = debian[1]
    major, minor, patch = (*map(int, re.findall(r"\d+", text)[:3]), 0, 0)[:3]
    return major << 16 | minor << 8 | min(patch, 255)


def _has_cookie() -> int:
    """Whether a tracepoint's program may call bpf_get_attach_cookie(): Linux 5.15."""
    code = [call(Helper.BPF_FUNC_get_attach_cookie), exit_()]
    try:
        Program(ProgType.BPF_PROG_TYPE_TRACEPOINT, code).close()
    except BpfError as error:
        if error.errno == errno.EPERM:
            raise
        return 0
    return 1


def _has_syscall_wrapper() -> int:
    """Whether a kprobe can be set on the wrapper of a system call: those of x86-64 since 4.17, of others later."""
    prefix = _WRAPPERS.get(os.uname().machine)
    if prefix is None or not os.path.exists(_KPROBES):
        return 0
    return int(re.search(rf"^\w+ [Tt] {prefix}sys_bpf$", Path(_KALLSYMS).read_text(), re.MULTILINE) is not None)


_OWN: dict[str, Callable[[], int]] = {
    "LINUX_KERNEL_VERSION": _kernel_version,
    "LINUX_HAS_BPF_COOKIE": _has_cookie,
    "LINUX_HAS_SYSCALL_WRAPPER": _has_syscall_wrapper,
}
