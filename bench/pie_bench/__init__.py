"""Benchmarks of Pie, run by `pie bench`. Each measures a running stack or starts one of its own."""
