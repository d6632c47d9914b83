"""Judges: the tasks, whether an answer is right, what a run's numbers are, and the report."""
