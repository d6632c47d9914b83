"""What an experiment will cost, before its first call."""
