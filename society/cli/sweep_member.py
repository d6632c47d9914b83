"""The process of one member of a sweep: `society`, stopped too when the sweep's process ends.

Standard input is a pipe that never carries data. It closes when the sweep's process ends for any
reason: Ctrl-C, a crash, SIGKILL. Then this process stops as if by Ctrl-C, unless it is stopping
already, since a scheduler sends its signal to all processes of a job.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from society import cli
from society.terminal import signals


def main() -> None:
    """Run `society` with the given arguments."""
    # A sweep started in the background blocks SIGINT in all threads but one; a child inherits that.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_stop_with_sweep, daemon=True).start()
    cli.main()


def _stop_with_sweep() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    signals.stop_process()


if __name__ == "__main__":
    main()
