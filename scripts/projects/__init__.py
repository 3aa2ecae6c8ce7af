"""Third-party projects whose models our callbacks watch; ``scripts/run_projects.py`` runs them."""
