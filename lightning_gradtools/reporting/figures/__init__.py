"""Figures and the TensorBoard layout."""
