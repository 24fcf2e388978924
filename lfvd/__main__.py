"""`python -m lfvd`: the command `lfvd` where the scripts of the environment are not on the path."""

import sys

from lfvd.cli import main

sys.argv[0] = "lfvd"  # the name under which a run notes its command
main()
