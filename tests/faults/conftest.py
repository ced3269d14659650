"""The faults are Linux's, and at the end it is said how many there were."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import harness


def pytest_collection_modifyitems(items):
    if not sys.platform.startswith("linux"):
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="the harness reads /proc"))


def pytest_terminal_summary(terminalreporter):
    if harness.INJECTED:
        terminalreporter.section("faults")
        for line in harness.summary():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def scenario(tmp_path_factory):
    """Two runs that share nothing but images: a baseline and GALOT, two rounds each."""
    return harness.Scenario(tmp_path_factory.mktemp("faults"), harness.ARGS)
