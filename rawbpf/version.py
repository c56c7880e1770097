"""The version of rawbpf."""

__version__ = "0.1.0"
