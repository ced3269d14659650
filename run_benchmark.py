#!/usr/bin/env python3
"""Run, compare and report active-learning strategies; see --help."""

import sys


def main() -> int:
    """The command; its libraries take seconds to load, and it may be interrupted meanwhile."""
    try:
        from deepal_galot.cli import main
    except KeyboardInterrupt:
        print("interrupted: nothing has begun", file=sys.stderr)
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(main())
