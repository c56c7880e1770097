"""The version of rawbpf."""

__version__ = "1.0.0"
