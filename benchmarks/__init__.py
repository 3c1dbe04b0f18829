"""Speed lives here, not in the tests. Each `bench_*.py` answers one question, prints a table and writes JSON (and a plot) to results/."""
