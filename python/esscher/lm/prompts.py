"""Beginnings of texts for a model to continue, for the demo, the dissociation and the benchmarks."""

# They say nothing good or bad, so that how positive a text is depends on what the model writes.
NEUTRAL_PROMPTS = (
    "The movie was",
    "I think that",
    "Yesterday my friend told me",
    "The food at the restaurant",
    "Our new neighbours",
    "The weather this week",
    "My first day at work",
    "The book that I am reading",
    "When I opened the letter,",
    "The concert last night",
    "Learning to cook",
    "The train to the city",
)
# In the words of Lewis Carroll, which are all that the packaged model "alice" knows.
ALICE_PROMPTS = (
    "Alice was",
    "The Queen said",
    "“Oh dear!”",
    "The Cat only grinned",
    "In a minute",
    "“What a",
    "Down",
    "So she",
)
