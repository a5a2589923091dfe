"""`python -m gpuq` is the command line."""

import sys

from gpuq.cli import main

sys.exit(main())
