"""While a run is going on, others may read it: what `society run` opens, and what it says."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from society.runs import RunFolder
from store.errors import LiveUnavailable
from store.ledger import Store


@contextmanager
def readable(
    folder: RunFolder, store: Store, tell: Callable[[str], None], *, live: bool = True
) -> Iterator[None]:
    """Serve `store` to readers while the block runs; `tell` gets a few lines on how to ask.

    Where that is impossible, and without `live`, there are snapshots only. The run goes on.
    """
    from store import serving, snapshots

    with ExitStack() as stack:
        stack.enter_context(snapshots.granted(store))
        if live:
            try:
                address = stack.enter_context(serving.served(store))
            except (LiveUnavailable, OSError) as error:
                tell(f"readable in snapshots only while it runs: {error}")
            else:
                runs = folder.path.parent
                where = "" if runs == Path("runs") else f" --runs {shlex.quote(str(runs))}"
                tell(f"read it while it runs: society sql {folder.name}{where}")
                tell(f"or with other tools, as CSV: {serving.by_curl(address)}")
        yield
