"""Scores of images by the formulas that the papers used: arrays in, numbers out."""
