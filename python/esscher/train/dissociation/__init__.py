"""One prior, one reward, several objectives, matched in compute: which of them collapse, and which reach the target."""

from esscher.train.dissociation.recipe import OBJECTIVES, DissociationRecipe, recipe_of, run_dissociation

__all__ = ["OBJECTIVES", "DissociationRecipe", "recipe_of", "run_dissociation"]
