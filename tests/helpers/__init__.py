"""What tests share: runs, cases, and processes to run them in."""
