"""Score a file of samples from end to end: in bounded memory, and so that a run that was stopped can go on."""

from esscher.offline.block_scoring import Progress, score_file
from esscher.offline.fingerprints import model_fingerprint
from esscher.offline.finished_parts import parts_folder
from esscher.offline.plan import Plan, make_plan
from esscher.offline.scorers import CROSS, LocalModels, Scorer, Server, columns_of

__all__ = [
    "CROSS",
    "LocalModels",
    "Plan",
    "Progress",
    "Scorer",
    "Server",
    "columns_of",
    "make_plan",
    "model_fingerprint",
    "parts_folder",
    "score_file",
]
