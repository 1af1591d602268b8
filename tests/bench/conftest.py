"""Benchmarks are no tests: pytest collects nothing here."""

collect_ignore_glob = ["*.py"]
