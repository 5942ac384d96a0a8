"""Benchmarks: ``python -m tests.benchmarks [--quick]``."""
