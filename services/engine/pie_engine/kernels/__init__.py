"""The torch edge: KV tensor, attention, sampling. Everything else of the engine works on plain integers."""
