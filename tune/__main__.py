"""`python -m tune`: the command `lfvd-tune` where the scripts of the environment are not on the path."""

import sys

from tune.cli import main

sys.argv[0] = "lfvd-tune"  # the name under which a study notes its command
main()
