"""The remote training loop of Tinker, at Thinking Machines and at servers of one's own.

The wire has no jobs. The loop of `fit.py` runs in this process, one for each adapter, and a journal
beside the run's models says how far each has come.
"""
