"""A device without float64, as Apple's MPS is one, on any machine: float64 is an error there, and
so is a tensor of the CPU beside its own, but for a single number."""

import contextlib
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from deepal_galot import device

LAZY = torch.device("lazy")  # a name that torch knows and does not initialise
MOVES = ("aten::_to_copy", "aten::copy_", "aten::_local_scalar_dense")


@contextlib.contextmanager
def device_without_float64():
    """The device, which is there in the block."""
    with patch.object(device, "WITHOUT_FLOAT64", ("lazy",)), _Device():
        yield LAZY


class _There(torch.Tensor):
    @staticmethod
    def __new__(cls, cpu):
        if cpu.dtype == torch.float64:
            raise TypeError("this device has no float64")
        kind = {"dtype": cpu.dtype, "device": LAZY}
        made = torch.Tensor._make_wrapper_subclass(cls, cpu.shape, cpu.stride(), **kind)
        made.cpu_tensor = cpu
        return made

    __torch_dispatch__ = None  # all that is done in the block is the mode's


class _Device(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        known = {id(x.cpu_tensor): x for x in tensors if isinstance(x, _There)}
        here = kwargs["device"] == LAZY if kwargs.get("device") else bool(known)
        if here and func._schema.name not in MOVES:
            assert all(isinstance(x, _There) or x.ndim == 0 for x in tensors), f"{func} of two"
        args, kwargs = tree_map_only(_There, lambda x: x.cpu_tensor, (args, kwargs))
        out = func(*args, **kwargs | ({"device": "cpu"} if "device" in kwargs else {}))
        made = _There if here else lambda x: x
        return tree_map_only(
            torch.Tensor, lambda x: known[id(x)] if id(x) in known else made(x), out
        )
