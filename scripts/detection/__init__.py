"""What `bench_detection.py` runs: recipes, the measured outcome of a run, the rivals' rules, the report."""
