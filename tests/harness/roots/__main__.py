"""The README's commands, to the letter, in a fresh Debian root:

    python -m tests.harness.roots [--suite sid [--python python3.15]] [--arch i386] [--no-compiler]

The packages, too, are those the README names; with --no-compiler only the one that has venv, and rawbpf then goes
through cffi's ABI mode. An i386 root runs on an x86-64 kernel with IA32 emulation, through the compat system call.
To be called in the project's folder, as root; needs debootstrap, and a pip that finds the test dependencies.
"""

import argparse
import re
import sys
import time
from pathlib import Path

from tests.harness.roots import debian

README = Path("README.md")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.harness.roots", description="The README's commands in a fresh root."
    )
    parser.add_argument(
        "--arch", choices=debian.MACHINES, default="amd64", help="Debian's architecture (default: amd64)"
    )
    parser.add_argument(
        "--suite", default="bookworm", help="Debian's suite (default: bookworm; sid has the newest CPython)"
    )
    parser.add_argument("--python", default="python3", help="another of its interpreters (default: python3)")
    parser.add_argument("--no-compiler", action="store_true", help="leave out all packages but python3-venv")
    parser.add_argument("--pytest", default="", metavar="ARGUMENTS", help="more for pytest: --pytest='-k maps'")
    options = parser.parse_args()
    text = README.read_text()
    packages = re.findall(r"Debian: `apt-get install ([^`]+)`", text)[0].split()
    commands = re.findall(r"^    (python3 -m venv .*)$", text, re.MULTILINE)
    assert len(commands) == 2, commands
    if options.no_compiler:
        packages = ["python3-venv"]
    packages = [package.replace("python3", options.python) for package in packages]
    commands = [command.replace("python3 ", f"{options.python} ") for command in commands]
    # The doctor fails where no map can be made; clang, strace and the like need not be there.
    environment = {"PYTEST_ADDOPTS": options.pytest}
    with debian.fresh(options.suite, options.arch, packages) as root:
        for command in [
            *commands,
            ".venv/bin/rawbpf doctor && uname -m && .venv/bin/python -c 'import sys; print(sys.version, sys.maxsize)'",
        ]:
            print(f"== {options.suite} {options.arch} with {' '.join(packages)}: {command}", flush=True)
            start = time.monotonic()
            if code := debian.run(root, options.arch, command, **environment):
                print(f"!!! exit code {code}", file=sys.stderr)
                return 1
            print(f"== {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
