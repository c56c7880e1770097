"""`python -m rawbpf`: the command line."""

import sys

from rawbpf.cli.main import main

sys.exit(main())
