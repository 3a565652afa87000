"""TensorFlow Datasets builders of the deraining sets; importing `sets` registers them by name."""
