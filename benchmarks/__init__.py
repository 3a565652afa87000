"""What the figures of this repository come from: one command each, `python -m benchmarks.NAME`."""
