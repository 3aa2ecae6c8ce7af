"""What a GradientMonitor measures around a step, one quantity a file."""
