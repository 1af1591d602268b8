"""Language models: what they can do (`base`), one small enough to enumerate (`tabular`), real ones (`transformers`)."""
