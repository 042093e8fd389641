"""What the runner itself costs, measured without gateway and engine: `python -m pie_runner.bench`."""
