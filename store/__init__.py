"""What a run remembers, in one DuckDB file: turns, votes, verdicts, datasets, jobs, models."""
