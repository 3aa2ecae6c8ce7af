"""One file a project; each has a table ``RECIPES`` of its models by name."""
