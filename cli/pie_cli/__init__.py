"""The `pie` command."""
