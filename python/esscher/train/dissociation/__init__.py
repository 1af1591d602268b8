"""One prior, one reward, several objectives, matched in compute: which of them collapse, and which reach the target."""

from esscher.train.dissociation.page import write_dissociation_page
from esscher.train.dissociation.recipe import OBJECTIVES, DissociationRecipe, recipe_of, run_dissociation
from esscher.train.dissociation.record import Dissociation, Exact, Outcome
from esscher.train.dissociation.table import dissociation_to_json, print_dissociation

__all__ = [
    "OBJECTIVES",
    "Dissociation",
    "DissociationRecipe",
    "Exact",
    "Outcome",
    "dissociation_to_json",
    "print_dissociation",
    "recipe_of",
    "run_dissociation",
    "write_dissociation_page",
]
