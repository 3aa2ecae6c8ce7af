"""Lightning callbacks: when to measure, what to log, what to save."""
