"""The Hydra application ``gradtools-train``; the only code here that knows Hydra."""
