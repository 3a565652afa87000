"""Images on disk, synthetic rain, and the batches that training draws from them."""
