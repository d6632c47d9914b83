"""The process of one member: `society`, which also stops when the process that started it is gone.

Its standard input is a pipe that nothing is ever written to. It closes when the sweep is stopped,
however that ends: Ctrl-C, a crash, SIGKILL. Then this process stops as if by Ctrl-C, unless it is
stopping already: a scheduler sends its signal to all processes of a job.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from society.terminal import signals


def main() -> None:
    """Run `society` with the given arguments."""
    # A sweep that was started in the background keeps it to a thread of its own.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_stop_with_the_sweep, daemon=True).start()
    from society.cli import main as society

    society()


def _stop_with_the_sweep() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    signals.stop_once()


if __name__ == "__main__":
    main()
