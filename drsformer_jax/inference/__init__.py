"""Restoring images of any size with a trained network: `Derainer.load(weights)(image)`."""
