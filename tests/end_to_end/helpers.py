"""Running the command line in tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUICK = [
    *("--n-init", "10", "--n-query", "5", "--n-rounds", "1", "--seeds", "0"),
    *("--epochs", "2", "--min-steps", "0", "--ascent-steps", "2", "--ascent-samples", "1"),
    *("--n-synthetic", "2", "--steps", "3"),
]


def run_benchmark(*args: object, check: bool = True, **kwargs) -> subprocess.CompletedProcess:
    """`python run_benchmark.py ARGS` in a fresh process."""
    command = [sys.executable, str(ROOT / "run_benchmark.py"), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, **kwargs)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def rows_of(output: Path, strategy: str = "*", *, seconds: bool = False) -> dict[str, list[dict]]:
    """All rows below a results folder by run, without the seconds unless asked."""
    found = {}
    for file in sorted(output.glob(f"*/{strategy}/*/seed*/rounds.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        if not seconds:
            rows = [{k: v for k, v in r.items() if not k.endswith("_seconds")} for r in rows]
        found[str(file.parent.relative_to(output))] = rows
    return found


def image_hashes(output: Path) -> dict[str, bytes]:
    """Every shard's pixels by name."""
    import numpy as np

    return {
        f.name: np.load(f)["images"].tobytes() for f in sorted((output / "images").rglob("*.npz"))
    }
