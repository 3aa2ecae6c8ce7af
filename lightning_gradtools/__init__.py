"""Gradients, schedules, diagnosis and curvature of a network while PyTorch Lightning trains it."""
