"""Other roots: fresh Debian ones (__main__, debian), and one with only Python, cffi and rawbpf (minimal)."""
