"""The one way from a trained model to results, for evaluation, serving and notebooks.

``Predictor`` is for Setokim: chat, captions, answers, pictures, edits, regions. ``TokenizerPredictor`` is for SeTok alone.
"""

from setok.predictor.likelihood import Likelihood
from setok.predictor.replies import MaskPart, PicturePart, Reply, TextPart
from setok.predictor.session import Ask, Ended, Session
from setok.predictor.setokim import Predictor
from setok.predictor.thresholds import Outcomes, reconstruct_many
from setok.predictor.tokenizer import Reconstruction, TokenizerPredictor

__all__ = [
    "Ask",
    "Ended",
    "Likelihood",
    "MaskPart",
    "Outcomes",
    "PicturePart",
    "Predictor",
    "Reconstruction",
    "Reply",
    "Session",
    "TextPart",
    "TokenizerPredictor",
    "reconstruct_many",
]
