"""The engine: weights, the page pool, contexts, batching, forward passes and sampling."""
