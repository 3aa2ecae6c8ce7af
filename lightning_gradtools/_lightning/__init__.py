"""Everything that is asked of, or put on, a Trainer or a LightningModule; nothing else in the package does either."""
