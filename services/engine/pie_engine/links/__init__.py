"""What runners send, and what they are owed."""
