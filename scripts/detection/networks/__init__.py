"""Small networks for recipes, beside those of `lightning_gradtools.tasks.networks`."""
