"""Mathematical answers: read as a structure, compared by structure, by value, then by the judge."""
