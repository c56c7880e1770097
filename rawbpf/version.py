"""The version of rawbpf."""

__version__ = "2.0.0.dev0"
