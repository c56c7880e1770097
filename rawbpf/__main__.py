"""`rawbpf` and `python -m rawbpf`: the command line."""

import sys


def main() -> int:
    """Runs the command line; returns the exit code. Ctrl-C is 130, as in a shell, also while modules are imported."""
    try:
        from rawbpf.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
