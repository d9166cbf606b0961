"""Weights of the losses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from setok.config.section import Section


class TokenizerLossConfig(Section):
    """Weights of the tokenizer's losses; 0 switches a term off."""

    l1: float = Field(1.0, ge=0.0)
    l2: float = Field(1.0, ge=0.0)
    flow: float = Field(1.0, gt=0.0)
    """Flow matching, with ``model.detokenizer.kind: flow``."""
    perceptual: float = Field(0.0, ge=0.0)
    """LPIPS (Zhang et al. 2018); without ``perceptual_path`` the term is off, and the log says so."""
    perceptual_path: str | None = None
    """File or folder with LPIPS's weights, as ``python -m setok.models.perceptual`` writes them."""
    contrast: float = Field(1.0, ge=0.0)
    contrast_temperature: float = Field(0.1, gt=0.0)
    feature_target: float = Field(0.0, ge=0.0)
    """A linear layer reads simple statistics of its patch from the clustering feature: what shapes the features of
    an encoder that is trained from scratch. Leave at 0 with a pretrained one."""
    feature_statistics: tuple[Literal["mean", "deviation", "edges", "context"], ...] = ("mean",)
    """Which statistics: mean colour; its spread inside the patch; edge energy; mean and spread over a wider window."""
    adversarial: float = Field(0.0, ge=0.0)
    adversarial_start_step: int = Field(0, ge=0)
    adversarial_adaptive: bool = True
    distillation: float = Field(0.0, ge=0.0)
    """Keeps an encoder that is trained near what it was: 1 − cosine to the features of a frozen copy of it."""


class SetokimLossConfig(Section):
    """Weights of Setokim's loss terms, each a mean over its targets in the global batch."""

    text: float = Field(1.0, ge=0.0)
    """Cross-entropy of words."""
    stop: float = Field(1.0, ge=0.0)
    """Cross-entropy of the decisions whether a picture that is drawn goes on."""
    diffusion: float = Field(1.0, ge=0.0)
    """Denoising error of the visual tokens of pictures that are drawn."""
    mask_cross_entropy: float = Field(1.0, ge=0.0)
    mask_dice: float = Field(1.0, ge=0.0)
