"""Which rows are in the next pass."""
