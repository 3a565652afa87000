"""Files of images, as their decoders hand them out (`data.decoding` makes one kind of them)."""
