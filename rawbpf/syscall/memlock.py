"""RLIMIT_MEMLOCK, which maps are charged to on Linux before 5.11, and nowhere else.

There a map that exceeds it (64 KiB by default) is EPERM. Since 5.11 the memory cgroup is charged instead, and the
limit does not matter.
"""

from collections.abc import Callable

from rawbpf.abi import Cmd
from rawbpf.syscall.permission import is_capable
from rawbpf.syscall.proc import in_initial_user_namespace, kernel_version

_enabled = True
_raised = False


def set_memlock_rlimit(enabled: bool) -> None:
    """Whether rawbpf may raise RLIMIT_MEMLOCK: once, on Linux before 5.11, when a creation is EPERM. It may, unless
    told otherwise here.

    >>> set_memlock_rlimit(False)  # EPERM stays EPERM, with a hint
    >>> set_memlock_rlimit(True)
    """
    global _enabled
    _enabled = enabled


def retry(refused: int, call: Callable[[], int]) -> tuple[int, str]:
    """After a call was `refused`, -EPERM: raises the limit if that may help, and calls again.

    Returns the last call's result, and a hint for the error if it still is one and the limit is the likely reason.
    """
    permitted = is_capable(Cmd.BPF_MAP_CREATE) is not False and in_initial_user_namespace() is not False
    if kernel_version() >= (5, 11) or not permitted:
        return refused, ""
    import resource

    if _enabled:
        _raise_limit()
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY:
        return call(), ""
    if _enabled:
        what = f"RLIMIT_MEMLOCK, raised to {limit} bytes, is too low for this map: ulimit -l, or CAP_SYS_RESOURCE"
    else:
        what = f"RLIMIT_MEMLOCK is {limit} bytes, and raising it is switched off (set_memlock_rlimit)"
    return call(), what


def _raise_limit() -> None:
    """Raises the limit as far as this process may, the first time it is called."""
    global _raised
    import resource

    if _raised:
        return
    _raised = True
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for limits in ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (hard, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)
        except (ValueError, OSError):
            continue
        return
