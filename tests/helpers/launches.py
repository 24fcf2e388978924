"""How many operations a computation dispatches: what decides the speed of short ones on a GPU, which waits on launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class _Launches(TorchDispatchMode):
    """Counts what is dispatched inside, forward and backward, but for views; an operation that writes in place is none.

    By the operations' schemas: `_unsafe_view`, a view that its schema does not own up to, counts, on both sides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        self.count += not view
        return func(*args, **(kwargs or {}))


def launches(compute: Callable[[], Any]) -> int:
    """The number of operations of one call."""
    with _Launches() as counted:
        compute()
    return counted.count
