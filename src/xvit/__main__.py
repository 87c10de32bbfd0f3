"""`python -m xvit` runs the command line."""

import sys

from xvit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
