"""Speed, measured side by side: `python -m tests.harness.benchmarks`. pytest collects nothing here."""
