"""Diagnosis: numbers in, findings out. No hooks, no trainer."""

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity

__all__ = ["Evidence", "Finding", "Kind", "Remedy", "Severity"]
