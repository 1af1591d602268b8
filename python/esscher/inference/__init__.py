"""Inference: getting from the prior to a target, or to its expectations. Knows arrays, no targets and no torch."""
