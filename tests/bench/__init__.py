"""Esscher's speed beside its peers', each checked to give the same numbers before it is timed."""
