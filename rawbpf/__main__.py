"""`python -m rawbpf`: the command line."""

import sys

from rawbpf.cli import main

sys.exit(main())
