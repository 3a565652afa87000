"""Training states of BasicSR, which the authors train with: read, written, carried on."""
