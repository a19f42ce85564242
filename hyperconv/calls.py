"""What surrounds a call, and what belongs to it alone: values computed for it, autocast, torch.compile."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
Value = TypeVar("Value")


class PerCall(Generic[Value]):
    """Values for modules within a block, seen by the thread (or asyncio task) that entered it and by no other.

    Blocks may end in any order; a module has the value of the block that was entered last.
    """

    def __init__(self, name: str) -> None:
        self._blocks: ContextVar[tuple[dict[nn.Module, Value], ...]] = ContextVar(name, default=())

    @contextmanager
    def within(self, values: dict[nn.Module, Value]) -> Iterator[None]:
        self._blocks.set((*self._blocks.get(), values))
        try:
            yield
        finally:
            # also for the contexts that were copied from this one
            values.clear()
            self._blocks.set(tuple(block for block in self._blocks.get() if block is not values))

    def within_any(self) -> bool:
        """Whether a block has been entered at all."""
        return bool(self._blocks.get())

    def get(self, module: nn.Module) -> Value | None:
        for block in reversed(self._blocks.get()):
            if module in block:
                return block[module]
        return None


def hooks_of(module: nn.Module) -> list[object]:
    """All that a call of this module runs beside its ``forward``, in its backward pass too."""
    return [hook for kind in _HOOKS for hook in getattr(module, kind).values()]


def has_hooks(module: nn.Module) -> bool:
    """Whether `hooks_of` has any, in a tenth of the time."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def compiling() -> bool:
    """Whether torch.compile or torch.export are tracing: they fuse in ways of their own, and serve other sizes."""
    return torch.compiler.is_compiling()


def a_tensor_of(module: nn.Module) -> Tensor:
    """To see device and type by. Replicas of ``nn.DataParallel`` have theirs as attributes, and no parameters."""
    # its own come first, and are found in a tenth of the time
    own = next((each for each in module._parameters.values() if each is not None), None)
    parameter = own if own is not None else next(module.parameters(), None)
    if parameter is not None:
        return parameter
    values = (value for part in module.modules() for value in vars(part).values())
    return next(value for value in values if isinstance(value, Tensor))


def full_precision(module: nn.Module) -> AbstractContextManager:
    """Autocast is off within; where there is none (on the meta device), nothing."""
    device = a_tensor_of(module).device.type
    # to enter the block takes longer than to ask; a program that is exported may run within autocast later
    if device == "meta" or not (compiling() or torch.is_autocast_enabled(device)):
        return nullcontext()
    return torch.autocast(device, enabled=False)
