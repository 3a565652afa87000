"""Pairs that are made here: rain, rendered or taken from other pairs, over clean photographs."""
