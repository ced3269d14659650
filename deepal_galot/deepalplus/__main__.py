"""python -m deepal_galot.deepalplus"""

import sys

from .command import main

if __name__ == "__main__":  # spawned loader workers import this file
    sys.exit(main())
