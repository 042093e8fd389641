"""Built-in inferlets, one folder each: `Pie.toml` and `main.py`."""
