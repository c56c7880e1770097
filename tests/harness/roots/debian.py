"""A fresh Debian root by debootstrap, and commands that run in one, in mounts of their own. Needs root."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# setarch(8)'s name of each of Debian's: in an i386 root uname(2) shall not say x86_64.
MACHINES = {"amd64": "x86_64", "i386": "i686"}

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "rawbpf", "roots")

NOT_IN_PROJECT = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "*.egg-info", "*.so", "_cdef.py")

# What commands there know of the environment here.
KEPT = re.compile(r"PIP_|https?_proxy$|no_proxy$|RAWBPF_STRESS_SECONDS$", re.IGNORECASE)

# Mounts go with the namespace, whatever becomes of the command. No chroot: in one the kernel makes no user namespace.
ENTER = """
set -e
mount --bind "$1" "$1"
for each in proc sys dev; do [ ! -d "$1/$each" ] || mount --rbind "/$each" "$1/$each"; done
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
cd "$1"
pivot_root . .
umount -l .
cd "$2"
shift 2
exec "$@"
"""


@contextmanager
def fresh(suite: str, architecture: str, packages: Sequence[str]) -> Iterator[Path]:
    """A root with the smallest system of one of Debian's suites, these packages and the project in /project; gone
    afterwards.

    The system is bootstrapped once and kept in ~/.cache/rawbpf/roots.
    """
    archive = _archive(suite, architecture, packages)
    with tempfile.TemporaryDirectory(prefix="rawbpf-root-") as folder:
        root = Path(folder, "root")
        root.mkdir()
        subprocess.run(["tar", "-xf", str(archive), "-C", str(root)], check=True)
        shutil.copytree(Path.cwd(), root / "project", ignore=NOT_IN_PROJECT)
        _copy_surroundings(root)
        yield root


def _archive(suite: str, architecture: str, packages: Sequence[str]) -> Path:
    wanted = hashlib.sha256(" ".join(sorted(packages)).encode()).hexdigest()[:8]
    archive = CACHE / f"{suite}-{architecture}-{wanted}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="rawbpf-root-") as folder:
            command = ["debootstrap", "--variant=minbase", f"--arch={architecture}"]
            command += [f"--include={','.join(packages)}", suite, f"{folder}/root"]
            log = Path(folder, "log")
            with log.open("w") as out:
                if subprocess.run(command, stdout=out, stderr=subprocess.STDOUT).returncode:
                    raise RuntimeError(f"debootstrap failed:\n{log.read_text()[-2000:]}")
            part = archive.with_suffix(".part")
            subprocess.run(["tar", "-cf", str(part), "-C", f"{folder}/root", "."], check=True)
            part.rename(archive)
    return archive


def _copy_surroundings(root: Path) -> None:
    """How this machine reaches the package index: name servers, and the certificates that pip is told to trust."""
    for path in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", os.environ.get("PIP_CERT")):
        if path and Path(path).is_file():
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copyfile(path, target)


def run(root: Path, architecture: str, command: str, **environment: str) -> int:
    """Runs a shell command in the root, in /project; returns its exit code."""
    kept = {name: value for name, value in os.environ.items() if KEPT.match(name)}
    kept |= {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", **environment}
    shell = ["/bin/bash", "-euo", "pipefail", "-c", command]
    return enter(root, "/project", shell, kept, MACHINES[architecture]).returncode


def enter(
    root: Path, folder: str, command: Sequence[str], environment: dict[str, str], machine: str, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Runs a command in a folder of a root, in a mount namespace of its own; in it are /proc, /sys and /dev if the root
    has folders for them. `options` are subprocess.run()'s."""
    namespace = ["unshare", "--mount", "--propagation", "private", "setarch", machine]
    return subprocess.run(
        [*namespace, "/bin/sh", "-c", ENTER, "sh", str(root), folder, *command], env=environment, **options
    )
