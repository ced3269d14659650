"""Which device a name means."""

import pytest
import torch

from deepal_galot.device import pick_device
from deepal_galot.errors import UserError


def test_a_number_beyond_the_gpus_is_none_of_them(monkeypatch):
    """torch keeps a number in 8 bits: cuda:256 was the first GPU, and cuda:255 the current one."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [pick_device(name).index for name in ("cuda", "cuda:0", "cuda:1")] == [None, 0, 1]
    for number in (2, 99, 200, 255, 256, 257, 512):
        with pytest.raises(UserError, match=f"--device cuda:{number}: this machine has none"):
            pick_device(f"cuda:{number}")
