"""Progress of long work: a bar on a terminal, else a line a tenth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lfvd.terminal import progress_bars


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to be called with the number of things that are done, of `total`."""
    bars = progress_bars()
    if bars is None:
        tenths = set[int]()

        def tell(count: int) -> None:
            """`clips 1371/13708`, at the first call and whenever another tenth is done."""
            if (tenth := 10 * count // total) not in tenths:
                tenths.add(tenth)
                print(f"{what} {count}/{total}", flush=True)

        yield tell
        return
    with bars:
        task = bars.add_task(what, total=total, of=total, state="")
        yield lambda count: bars.update(task, completed=count)
