"""Benchmarks: ``python -m tests.benchmarks [--quick] [--only comparison|durability]``."""
