"""Models: their parts, their losses, and the builder that turns a config into a module."""
