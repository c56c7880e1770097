"""Runs the programs that build a guest's file system."""

import subprocess
import sys
from typing import Any

BUILD_SECONDS = 300


def run(*command: str, **options: Any) -> str:
    """What a command prints; RuntimeError with its complaint if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, **options)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {(result.stderr or result.stdout).strip()}")
    return result.stdout


def pip(*arguments: str) -> None:
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)
