"""``python -m sbp_conformance``."""

import sys

from sbp_conformance.cli import main

if __name__ == "__main__":
    sys.exit(main())
