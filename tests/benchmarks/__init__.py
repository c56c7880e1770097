"""Speed, measured side by side: `python -m tests.benchmarks`. Nothing here is a test; pytest does not collect it."""
