"""The faults are Linux's, and at the end it is said how many there were."""

import sys
from pathlib import Path

import pytest

LINUX = sys.platform.startswith("linux")  # the harness forks, mounts and reads /proc
collect_ignore_glob = [] if LINUX else ["test_*.py"]
if LINUX:
    sys.path.insert(0, str(Path(__file__).parent))
    import harness


def pytest_terminal_summary(terminalreporter):
    if LINUX and harness.INJECTED:
        terminalreporter.section("faults")
        for line in harness.summary():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def scenario(tmp_path_factory):
    """Two runs that share nothing but images: a baseline and GALOT, two rounds each."""
    return harness.Scenario(tmp_path_factory.mktemp("faults"), harness.ARGS)
