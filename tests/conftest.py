"""For all tests: torch keeps to one thread, since the test workers share the cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
