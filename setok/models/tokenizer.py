"""SeTok: an image to a handful of semantic tokens, and back to pixels."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from setok.batch import VisualTokens
from setok.config import ClusteringConfig, MergerConfig, TokenizerConfig
from setok.models.clustering import Clusters, cluster
from setok.models.detokenizer import Detokenizer
from setok.models.encoder import build_encoder
from setok.models.flow import sample
from setok.models.layers import Block, sincos_positions


class ClusteringHead(nn.Module):
    """Encoder features to clusters, through a learned projection where the config asks for one."""

    def __init__(self, config: ClusteringConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.width = config.feature_dim or width
        self.project = nn.Linear(width, config.feature_dim) if config.feature_dim else nn.Identity()

    def forward(
        self, features: Float[Tensor, "batch patches width"], config: ClusteringConfig | None = None
    ) -> tuple[Clusters, Float[Tensor, "batch patches feature"]]:
        """Clusters, and the unit-length features they were made from; ``config`` replaces the trained setting."""
        with torch.autocast(features.device.type, enabled=False):
            projected = nn.functional.normalize(self.project(features.float()), dim=-1)
            return cluster(projected, config or self.config), projected


class TokenMerger(nn.Module):
    """Patches of a cluster talk to each other, are averaged into one token, and tokens talk to each other."""

    def __init__(self, config: MergerConfig, width: int, token_width: int) -> None:
        super().__init__()
        self.position = config.position
        self.width = token_width
        self.enter = nn.Linear(width, token_width) if width != token_width else nn.Identity()
        heads, ratio = config.num_heads, config.mlp_ratio
        self.intra = nn.ModuleList(Block(token_width, heads, ratio) for _ in range(config.intra_layers))
        self.inter = nn.ModuleList(Block(token_width, heads, ratio) for _ in range(config.inter_layers))
        self.norm = nn.LayerNorm(token_width)

    def forward(
        self,
        features: Float[Tensor, "batch patches width"],
        assignment: Int[Tensor, "batch patches"],
        weights: Float[Tensor, "batch clusters patches"],
        mask: Bool[Tensor, "batch clusters"],
        grid: tuple[int, int],
    ) -> Float[Tensor, "batch clusters token_width"]:
        """One token per cluster; rows of padding clusters carry no meaning."""
        x = self.enter(features)
        if self.position:
            x = x + sincos_positions(grid, self.width).to(x)
        same_cluster = assignment.unsqueeze(1) == assignment.unsqueeze(2)
        for block in self.intra:
            x = block(x, same_cluster)
        with torch.autocast(x.device.type, enabled=False):
            tokens = weights @ x.float()
        for block in self.inter:
            tokens = block(tokens, mask.unsqueeze(1))
        return self.norm(tokens.float())


class SeTok(nn.Module):
    """The tokenizer: encoder → clustering → merger → tokens → detokenizer → pixels."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder)
        self.clustering = ClusteringHead(config.clustering, self.encoder.width)
        self.merger = TokenMerger(config.merger, self.encoder.width, config.detokenizer.width)
        self.detokenizer = Detokenizer(config.detokenizer)

    def tokenize(
        self, pixel_values: UInt8[Tensor, "batch 3 height width"], clustering: ClusteringConfig | None = None
    ) -> VisualTokens:
        """Semantic tokens of every image.

        Args:
            pixel_values: uint8 pictures.
            clustering: replaces the trained clustering settings, for example another threshold or token budget.
        """
        features = self.encoder(pixel_values)
        grid = self.encoder.grid(*pixel_values.shape[-2:])
        clusters, clustered = self.clustering(features, clustering)
        setting = clustering or self.config.clustering
        weights = clusters.pooling_weights(setting.assignment)
        tokens = self.merger(features, clusters.assignment, weights, clusters.mask, grid)
        return VisualTokens(
            tokens=tokens,
            mask=clusters.mask,
            assignment=clusters.assignment,
            scores=clusters.scores,
            grid=grid,
            features=clustered,
        )

    def detokenize(
        self,
        tokens: Float[Tensor, "batch tokens channels"],
        mask: Bool[Tensor, "batch tokens"],
        size: tuple[int, int],
        *,
        seed: int = 0,
        sampling_steps: int | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Pixels around [0, 1] (not clipped) painted from tokens, ``size`` being (height, width).

        Args:
            seed: of the noise that a flow decoder starts from; no other decoder is random.
            sampling_steps: steps of a flow decoder; ``None`` takes those of the config, 0 the plain decoder's picture.
        """
        pixels: Tensor = self.detokenizer(tokens, mask, size).pixels
        flow = self.detokenizer.flow
        steps = 0 if flow is None else flow.sampling_steps if sampling_steps is None else sampling_steps
        if flow is None or not steps:
            return pixels
        generator = torch.Generator().manual_seed(seed)
        return sample(flow, pixels, tokens, mask, generator=generator, steps=steps)

    def forward(
        self, pixel_values: UInt8[Tensor, "batch 3 height width"]
    ) -> tuple[VisualTokens, Float[Tensor, "batch 3 height width"]]:
        """Tokens and the reconstruction from them."""
        tokens = self.tokenize(pixel_values)
        size = (pixel_values.shape[-2], pixel_values.shape[-1])
        return tokens, self.detokenize(tokens.tokens, tokens.mask, size)


def patchify(
    pixels: Float[Tensor, "batch 3 height width"], grid: tuple[int, int]
) -> Float[Tensor, "batch patches 3 n"]:
    """Cut pictures into the patches of a grid: [batch, patch, colour, pixel of the patch]."""
    return rearrange(pixels, "b c (h p) (w q) -> b (h w) c (p q)", h=grid[0], w=grid[1])
