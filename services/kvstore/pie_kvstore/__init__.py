"""The key-value store: the one service that speaks to Redis."""
