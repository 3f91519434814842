"""A pretended CUDA device: computes on the CPU, says "cuda", and refuses what a GPU would refuse.

Inside `fake_cuda()` a tensor that is moved to or made on "cuda" is a wrapper around a CPU tensor.
An operation that mixes it with a tensor of the CPU fails, as on a GPU; single numbers may be mixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

_DEVICE = torch.device("cuda:0")
_MOVES = (torch.ops.aten.copy_.default,)


class FakeCudaTensor(torch.Tensor):
    """A tensor that says it is on a GPU; its values are in `inner`, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> FakeCudaTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device="cpu"
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:
        return _DEVICE

    def __repr__(self, **kwargs: Any) -> str:
        return f"FakeCudaTensor({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in tree_flatten((args, kwargs))[0]:
            is_here = isinstance(value, torch.Tensor) and not isinstance(value, FakeCudaTensor)
            if is_here and value.ndim and func not in _MOVES:
                raise AssertionError(f"{func} mixes cuda with a CPU tensor {tuple(value.shape)}")
        result = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if func._schema.is_mutable:
            return args[0]
        return tree_map(lambda x: FakeCudaTensor(x) if isinstance(x, torch.Tensor) else x, result)


class _OnFakeCuda(TorchFunctionMode):
    """Catches whatever names a device before torch looks for a driver."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cpu:
            return _Move.apply(args[0], False)
        if func is torch.Tensor.to:
            return _to(*args, **kwargs)
        if func is torch.nn.functional.one_hot and isinstance(args[0], FakeCudaTensor):
            return FakeCudaTensor(func(args[0].inner, *args[1:]))  # makes tensors inside torch
        if kwargs.get("device") is not None and _is_cuda(kwargs["device"]):
            kwargs["device"] = "cpu"
            return FakeCudaTensor(func(*args, **kwargs))
        return func(*args, **kwargs)


class _Move(torch.autograd.Function):
    """Between the CPU and the pretended device; gradients go back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, to_cuda: bool) -> torch.Tensor:
        ctx.was_cuda = isinstance(tensor, FakeCudaTensor)
        if ctx.was_cuda == to_cuda:
            return tensor
        return FakeCudaTensor(tensor.detach()) if to_cuda else tensor.inner.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Move.apply(gradient, ctx.was_cuda), None


def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`Tensor.to` with a device, a dtype, both, or another tensor."""
    target = [x for x in (*args, *kwargs.values()) if isinstance(x, (str, torch.device))]
    dtype = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.dtype)]
    for other in (x for x in args if isinstance(x, torch.Tensor)):
        target, dtype = [other.device], [other.dtype]
    if target and torch.device(target[0]).type == "meta":
        return tensor.to("meta")
    if target and _is_cuda(target[0]) != isinstance(tensor, FakeCudaTensor):
        tensor = _Move.apply(tensor, _is_cuda(target[0]))
    return tensor.type(dtype[0]) if dtype and tensor.dtype != dtype[0] else tensor


def _is_cuda(device: str | torch.device) -> bool:
    return torch.device(device).type == "cuda"


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, FakeCudaTensor) else value


@contextmanager
def fake_cuda() -> Iterator[None]:
    """torch believes in one CUDA device."""
    with pytest.MonkeyPatch.context() as patch, _OnFakeCuda():
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # wrappers have no storage
        try:
            yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
