"""`python -m vq4dit` is the same as the command `vq4dit`."""

import sys

from vq4dit.cli import main

sys.exit(main())
