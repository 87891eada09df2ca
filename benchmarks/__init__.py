"""Every speed claim, as a ratio to a baseline that was measured in the same run: `python -m benchmarks`."""
