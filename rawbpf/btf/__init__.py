"""BTF, the kernel's type information: read, written, and what a compiled file adds to it (ext.py)."""
