"""What to write where for a cause: for Docker, Podman, Kubernetes, systemd and setcap(8).

What a runtime's own seccomp profile lets pass depends on the capabilities that the container is given: Docker's (since
23.0), containerd's (since 1.6.9) and Podman's (since 5.2) open bpf(2) to CAP_BPF, all of them always did to
CAP_SYS_ADMIN. The guide containers says more.
"""

import os

from rawbpf.syscall.permission import Cause
from rawbpf.syscall.proc import Capability

# {added} is --cap-add BPF, {names} CAP_BPF, {listed} "BPF", {setcap} cap_bpf, for all capabilities that are missing.
_CAPABILITY = {
    "docker": "docker run {added} ...",
    "podman": "sudo podman run {added} ...",
    "kubernetes": "securityContext: {{capabilities: {{add: [{listed}]}}}}",
    "systemd": "[Service] AmbientCapabilities={names} CapabilityBoundingSet={names}",
    "setcap": "setcap {setcap}+ep /path/to/the/python/of/this/program",
}

# The filter refuses, and the capability that would open it is missing.
_FILTER_AND_CAPABILITY = {
    "docker": "docker run {added} ...",
    "podman": "sudo podman run {added}{profile} ...",
    "kubernetes": "securityContext: {{capabilities: {{add: [{listed}]}}}}",
    "systemd": "[Service] AmbientCapabilities={names} SystemCallFilter=bpf",
}

# The filter refuses, and only another filter helps.
_FILTER = {
    "docker": "docker run --security-opt seccomp=seccomp.json ...",
    "podman": "sudo podman run --security-opt seccomp=seccomp.json ...",
    "kubernetes": "securityContext: {seccompProfile: {type: Localhost, localhostProfile: seccomp.json}}",
    "systemd": "[Service] SystemCallFilter=bpf",
}

_USER_NAMESPACE = {
    "docker": "docker run --userns=host {added} ...",
    "podman": "sudo podman run {added}{profile} ... (rootless podman is in a user namespace)",
    "kubernetes": "hostUsers: true",
}

_WITH_CAPABILITIES = {
    "capability": _CAPABILITY,
    "seccomp": _FILTER_AND_CAPABILITY,
    "user-namespace": _USER_NAMESPACE,
}

_OTHERS = {
    "seccomp": _FILTER,
    "bpffs": {
        "docker": "docker run -v /sys/fs/bpf:/sys/fs/bpf ...",
        "podman": "sudo podman run -v /sys/fs/bpf:/sys/fs/bpf ...",
        "kubernetes": "volumes: [{name: bpffs, hostPath: {path: /sys/fs/bpf}}]",
        "systemd": "[Unit] RequiresMountsFor=/sys/fs/bpf",
    },
    "sysctl": {"sysctl": "sysctl kernel.unprivileged_bpf_disabled=0"},
    "memlock": {
        "docker": "docker run --ulimit memlock=-1 ...",
        "podman": "sudo podman run --ulimit memlock=-1 ...",
        "systemd": "[Service] LimitMEMLOCK=infinity",
    },
}


def grants(cause: Cause) -> dict[str, str]:
    """What to write where, such as {"docker": "docker run ..."}; what this process runs in comes first."""
    found = _OTHERS.get(cause.kind, {})
    if cause.capabilities and cause.kind in _WITH_CAPABILITIES:
        words = _words(cause.capabilities)
        found = {where: how.format_map(words) for where, how in _WITH_CAPABILITIES[cause.kind].items()}
    here = surroundings()
    return {where: found[where] for where in sorted(found, key=lambda where: where != here)}


def _words(capabilities: tuple[Capability, ...]) -> dict[str, str]:
    names = [capability.name for capability in capabilities]
    words = [name.removeprefix("CAP_") for name in names]
    # A profile of Podman's before 5.2 opens bpf(2) to CAP_SYS_ADMIN alone.
    profile = "" if Capability.CAP_SYS_ADMIN in capabilities else " --security-opt seccomp=seccomp.json"
    return {
        "added": " ".join(f"--cap-add {word}" for word in words),
        "names": " ".join(names),
        "listed": ", ".join(f'"{word}"' for word in words),
        "setcap": ",".join(name.lower() for name in names),
        "profile": profile,
    }


def surroundings() -> str:
    """What this process runs in, by the name it has in grants(); "" if no sign of that is found."""
    signs = {
        "kubernetes": "KUBERNETES_SERVICE_HOST" in os.environ,
        "podman": os.path.exists("/run/.containerenv"),
        "docker": os.path.exists("/.dockerenv"),
        "systemd": "INVOCATION_ID" in os.environ,
    }
    return next((where for where, here in signs.items() if here), "")


def remedies(cause: Cause) -> list[tuple[str, str]]:
    """What would help, each with where it is written, or "" for what is no matter of a place.

    Of the places only the one that this process runs in, if that is known.
    """
    found, here = grants(cause), surroundings()
    places = [(here, found[here])] if here in found else list(found.items())
    # The `help` of these kinds names such places itself.
    if cause.kind == "seccomp":
        wants_profile = any("seccomp.json" in how for _, how in places)
        return [*places, ("seccomp.json", "rawbpf/examples has one")] if wants_profile else places
    if cause.kind == "capability":
        return places if os.geteuid() == 0 else [("", "run it as root"), *places]
    return [("", cause.help), *places]
