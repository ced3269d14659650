"""Print the README's fenced command block marked `<!-- NAME -->`, so that CI runs what it says."""

import re
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def command(name: str) -> str:
    """The shell lines of the block that follows the marker."""
    text = README.read_text(encoding="utf-8")
    block = re.search(rf"<!-- {re.escape(name)} -->\s*```\w*\n(.*?)```", text, re.DOTALL)
    if block is None:
        sys.exit(f"README.md has no command block marked <!-- {name} -->")
    return block[1]


if __name__ == "__main__":
    print(command(sys.argv[1]), end="")
