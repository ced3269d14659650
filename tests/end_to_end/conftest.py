"""Keep what one test registers from the next."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from deepal_galot import registry


@pytest.fixture(autouse=True)
def forget_plugins():
    before = {k: (dict(r._discovered()), dict(r._plugins)) for k, r in registry.ALL.items()}
    modules = set(sys.modules)
    yield
    for k, r in registry.ALL.items():
        r._classes, r._plugins = before[k]
    for name in [m for m in set(sys.modules) - modules if m.startswith("query_strategies.")]:
        del sys.modules[name]
