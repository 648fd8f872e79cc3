"""Retrievers held against the field's benchmarks: their files, their rules, their metrics."""
