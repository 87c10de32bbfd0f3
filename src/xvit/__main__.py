"""`python -m xvit`: the command line."""

import sys

from xvit.cli import main

if __name__ == "__main__":
    sys.exit(main())
