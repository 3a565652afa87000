"""Data sets on disk: verified, and built as TensorFlow Datasets."""
