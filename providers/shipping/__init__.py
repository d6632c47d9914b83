"""Tuned models for other programs: files that engines load, and lines that start them."""
