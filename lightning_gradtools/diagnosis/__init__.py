"""Diagnosis: numbers in, findings out. No hooks, no trainer."""

from lightning_gradtools.diagnosis.finding import Change, Evidence, Finding, Kind, Remedy, Severity

__all__ = ["Change", "Evidence", "Finding", "Kind", "Remedy", "Severity"]
