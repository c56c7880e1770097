"""Other roots: fresh Debian ones (__main__.py, debian.py), and one with nothing but Python, cffi and rawbpf (minimal.py)."""
