"""RLIMIT_MEMLOCK, which maps are charged to on Linux before 5.11, and nowhere else.

There a map that exceeds it (64 KiB by default) is EPERM. Since 5.11 the memory cgroup is charged instead, and the
limit does not matter.
"""

from collections.abc import Callable

from rawbpf.privileges import Capability, has_capability, kernel_version

_enabled = True
_raised = False


def set_memlock_rlimit(enabled: bool) -> None:
    """Whether rawbpf may raise RLIMIT_MEMLOCK: once, on Linux before 5.11, when a creation is EPERM. It may, unless
    told otherwise here."""
    global _enabled
    _enabled = enabled


def retry(call: Callable[[], int]) -> tuple[int, str]:
    """After an EPERM: raises the limit if that may help, and calls again.

    Returns the call's result, and a hint for the error if it still is one and the limit is the likely reason.
    """
    if kernel_version() >= (5, 11) or has_capability(Capability.CAP_SYS_ADMIN) is False:
        return call(), ""
    if not _enabled:
        return call(), "RLIMIT_MEMLOCK may be too low, and raising it is switched off (set_memlock_rlimit)"
    limit = _raise_limit()
    return (
        call(),
        f"RLIMIT_MEMLOCK, raised to {limit}, is too low for this map: ulimit -l, or run with CAP_SYS_RESOURCE",
    )


def _raise_limit() -> str:
    """Raises the limit as far as this process may, the first time it is called. Returns what it then is."""
    global _raised
    import resource

    if not _raised:
        _raised = True
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        for limits in ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (hard, hard)):
            try:
                resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)
            except (ValueError, OSError):
                continue
            break
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return "infinity" if soft == resource.RLIM_INFINITY else f"{soft} bytes"
