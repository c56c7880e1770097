"""What `import rawbpf` may cost: only what maps need."""

import subprocess
import sys


def test_import_brings_only_what_maps_need():
    """The command line's and the tools' modules are loaded when they are asked for, and not before."""
    code = "import sys, rawbpf; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())
    assert "rawbpf.maps" in loaded
    unwanted = {"asyncio", "argparse", "json", "socket", "ctypes", "multiprocessing", "subprocess", "resource"}
    ours = {
        f"rawbpf.{name}"
        for name in (
            "bulk",
            "cli",
            "doctor",
            "introspect",
            "link",
            "program",
            "sharing",
            "streams",
            "text",
            "tokens",
            "tour",
        )
    }
    assert loaded & (unwanted | ours) == set()
    code = "import rawbpf; print(rawbpf.diagnose, rawbpf.Token, rawbpf.send_map, rawbpf.recv_map)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
