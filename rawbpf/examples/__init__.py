"""Examples to run and to copy from: `python -m rawbpf.examples.least_privilege`, files for containers and systemd."""
