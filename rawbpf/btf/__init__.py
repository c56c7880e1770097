"""BTF, the kernel's type information: read and written (types.py), and what a compiled file adds to it (ext.py)."""
