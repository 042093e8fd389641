"""Model folders and the weights inside them: loading and conversion."""
