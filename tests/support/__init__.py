"""What works where, as data: ``matrix.py``."""
