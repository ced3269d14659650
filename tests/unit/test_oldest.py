"""The constraints file of the oldest supported releases says what setup.py says."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_oldest_releases_are_the_minimum_of_setup():
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    asked = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', (ROOT / "setup.py").read_text()))
    del asked["playwright"]  # for a browser, which has versions of its own
    assert pinned.keys() == asked.keys()
    for name, version in asked.items():
        assert re.fullmatch(re.escape(version) + r"(\.0)*", pinned[name]), name
