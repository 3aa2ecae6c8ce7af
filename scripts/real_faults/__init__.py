"""Faulty programs of the public record, rebuilt in PyTorch, each beside its repair; see bench_real_faults.py."""
