#!/usr/bin/env python3
"""Run, compare and report active-learning strategies; see --help."""

import sys

from deepal_galot.cli import main

if __name__ == "__main__":
    sys.exit(main())
