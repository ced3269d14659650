"""How threads wait for each other, which the environment says before torch is loaded."""

import os
import subprocess
import sys

import pytest

SAID = "import os; import deepal_galot; print(os.environ.get('GOMP_SPINCOUNT'))"
ON_ONE_CORE = """
import os, time
import deepal_galot
import torch
torch.set_num_threads(2)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
x = torch.rand(64, 64, 32)  # large enough for two threads
started = time.perf_counter()
for _ in range(300):
    x = x + 1
print(time.perf_counter() - started)
"""


def output_of(code, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", code], env=clean | environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("own", "said"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_waiting_is_short_unless_the_user_says_otherwise(own, said):
    assert output_of(SAID, **own) == said


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU OpenMP, and core affinity")
def test_two_threads_on_one_core_do_not_wait_for_whole_time_slices():
    """As the system puts them beside other work; without it a fit of one second took a minute."""
    ours, default = (
        float(output_of(ON_ONE_CORE, **own)) for own in ({}, {"GOMP_SPINCOUNT": "300000"})
    )
    assert ours < default / 3, (ours, default)
