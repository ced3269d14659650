"""python -m deepal_galot.deepalplus"""

import sys

from .command import main

if __name__ == "__main__":  # loader workers that are spawned import this file
    sys.exit(main())
