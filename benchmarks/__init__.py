"""Benchmarks: `python -m benchmarks NAME`. Rows go to results.csv."""
