"""A device without a model, for tests of everything around it."""
