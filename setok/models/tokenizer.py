"""SeTok: an image to a handful of semantic tokens, and back to pixels."""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from setok.batch import VisualTokens, real_cells
from setok.config import ClusteringConfig, TokenizerConfig
from setok.errors import ConfigError, DataError
from setok.models import pretrained as pretrained_files
from setok.models.clustering import Clusters, Resampler, cluster, concatenate
from setok.models.clustering.interface import require_finite
from setok.models.detokenizer import Detokenizer
from setok.models.encoder import VisionEncoder, build_encoder
from setok.models.flow import sample
from setok.models.layers import enable_checkpointing
from setok.models.merger import TokenMerger
from setok.models.parts import parts_of


class ClusteringHead(nn.Module):
    """Encoder features to clusters, through a learned projection where the config asks for one."""

    def __init__(self, config: ClusteringConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.width = config.feature_dim or width
        self.project = nn.Linear(width, config.feature_dim) if config.feature_dim else nn.Identity()
        self.resampler = Resampler(config.num_tokens, self.width) if config.method == "resampler" else None

    def forward(
        self,
        features: Float[Tensor, "batch patches width"],
        config: ClusteringConfig | None = None,
        *,
        grid: tuple[int, int] | None = None,
        patch_mask: Bool[Tensor, "batch patches"] | None = None,
    ) -> tuple[Clusters, Float[Tensor, "batch patches feature"]]:
        """Clusters, and the unit-length features they were made from.

        Args:
            features: of the encoder.
            config: replaces the trained setting, for example another threshold, budget or method.
            grid: rows and columns of patches.
            patch_mask: True for real patches.

        Raises:
            ConfigError: a resampler that was not trained, or more queries than it has.
            TrainingError: a feature is not finite, and this is not training.
        """
        if len(parts := parts_of(features)) > 1:
            masks = (None if patch_mask is None else patch_mask[part] for part in parts)
            done = [self(features[p], config, grid=grid, patch_mask=m) for p, m in zip(parts, masks, strict=True)]
            return concatenate([clusters for clusters, _ in done]), torch.cat([clustered for _, clustered in done])
        setting = config or self.config
        projected = self.unit_features(features, patch_mask)
        # In training, what is not finite has to come out at the loss, which all ranks look at together: one that stopped
        # here would leave the others waiting, and nobody could leave the update out. Only grouping does without.
        grouped = projected.nan_to_num() if self.training else projected
        with torch.autocast(features.device.type, enabled=False):
            if setting.method != "resampler":
                return cluster(grouped, setting, grid=grid, patch_mask=patch_mask), projected
            queries = 0 if self.resampler is None else len(self.resampler.queries)
            if self.resampler is None or setting.num_tokens > queries:
                raise ConfigError(
                    f"clustering.method=resampler is asked for {setting.num_tokens} tokens, and the model has {queries} queries",
                    f"ask for at most {queries}, or train a model with clustering.method=resampler"
                    f" and clustering.max_tokens={setting.max_tokens}",
                )
            require_finite(grouped)
            return self.resampler(grouped, setting.num_tokens, patch_mask), projected

    def unit_features(
        self, features: Float[Tensor, "batch patches width"], patch_mask: Bool[Tensor, "batch patches"] | None = None
    ) -> Float[Tensor, "batch patches feature"]:
        """What is clustered: features of the encoder through the projection, of unit length."""
        if patch_mask is not None:
            features = features.masked_fill(~patch_mask.unsqueeze(-1), 0.0)
        with torch.autocast(features.device.type, enabled=False):
            project = self.project
            if isinstance(project, nn.Linear):  # in fp32 whatever the weights are
                features = nn.functional.linear(features.float(), project.weight.float(), project.bias.float())
            return nn.functional.normalize(features.float(), dim=-1)


class SeTok(nn.Module):
    """The tokenizer: encoder → clustering → merger → tokens → detokenizer → pixels."""

    def __init__(self, config: TokenizerConfig, *, pretrained: bool = True) -> None:
        """Build it; ``pretrained=False`` leaves a pretrained encoder without its weights, for those that come after."""
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder, pretrained=pretrained)
        try:
            self.encoder.grid(config.image_size, config.image_size)
        except DataError as error:
            raise ConfigError(f"image_size={config.image_size}: {error.problem}", error.remedy) from error
        if config.fit_multiple is not None:
            _check_fit(config, self.encoder)
        self.clustering = ClusteringHead(config.clustering, self.encoder.width)
        self.merger = TokenMerger(config.merger, self.encoder.width, config.detokenizer.width)
        self.detokenizer = Detokenizer(config.detokenizer)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, dtype: torch.dtype = torch.float32) -> SeTok:
        """A tokenizer that ``save_pretrained`` or ``setok.export.export_tokenizer`` wrote, in evaluation mode on the CPU.

        Args:
            path: its folder, or a hub id.
            dtype: of the weights, whatever they are stored in.

        Raises:
            CheckpointError: there is none, or it is damaged or of another version.
        """
        folder = pretrained_files.local_folder(path)
        model = cls(pretrained_files.read_config(folder), pretrained=False)
        pretrained_files.read_weights(folder, model)
        return model.to(dtype).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors, preprocessor_config.json, and the architecture of a pretrained encoder."""
        folder = Path(folder)
        pretrained_files.write(folder, self.config, self, self.encoder.layer)
        pretrained_files.write_preprocessor(folder, self.config, self.encoder.patch_size)
        self.encoder.save_architecture(folder / pretrained_files.ENCODER)

    def tokenize(
        self,
        pixel_values: UInt8[Tensor, "batch 3 height width"],
        clustering: ClusteringConfig | None = None,
        *,
        sizes: Int[Tensor, "batch 2"] | None = None,
    ) -> VisualTokens:
        """Semantic tokens of every image.

        Args:
            pixel_values: uint8 pictures.
            clustering: replaces the trained clustering settings, for example another threshold or token budget.
            sizes: height and width in pixels of every picture in the upper left, multiples of the encoder's patch, where the
                rest is padding, which changes nothing.

        Raises:
            DataError: other values than uint8, another shape, or a size that the encoder's patches do not divide.
            TrainingError: a feature is not finite.
        """
        if pixel_values.dtype != torch.uint8 or pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise DataError(
                f"pixel values are {pixel_values.dtype} of shape {tuple(pixel_values.shape)}",
                "give uint8 of shape [batch, 3, height, width], as SeTokImageProcessor makes them",
            )
        patch_mask = self.patch_mask(pixel_values, sizes)
        return self.tokenize_features(
            self.encoder(pixel_values, patch_mask), pixel_values, clustering, patch_mask=patch_mask
        )

    def patch_mask(
        self, pixel_values: UInt8[Tensor, "batch 3 height width"], sizes: Int[Tensor, "batch 2"] | None
    ) -> Bool[Tensor, "batch patches"] | None:
        """True for patches of the pictures, False for padding; ``None`` where there is none."""
        if sizes is None:
            return None
        return real_cells(sizes, self.encoder.grid(*pixel_values.shape[-2:]), self.encoder.patch_size)

    def tokenize_features(
        self,
        features: Float[Tensor, "batch patches encoder_width"],
        pixel_values: UInt8[Tensor, "batch 3 height width"],
        clustering: ClusteringConfig | None = None,
        *,
        patch_mask: Bool[Tensor, "batch patches"] | None = None,
    ) -> VisualTokens:
        """``tokenize`` where the encoder's features of the pictures are there already."""
        grid = self.encoder.grid(*pixel_values.shape[-2:])
        clusters, clustered = self.clustering(features, clustering, grid=grid, patch_mask=patch_mask)
        return self.merge(features, clusters, clustered, clustering or self.config.clustering, grid)

    def merge(
        self,
        features: Float[Tensor, "batch patches encoder_width"],
        clusters: Clusters,
        clustered: Float[Tensor, "batch patches feature"],
        setting: ClusteringConfig,
        grid: tuple[int, int],
    ) -> VisualTokens:
        """One token for every cluster.

        Args:
            features: of the encoder.
            clustered: the unit-length features that the clusters were made from.
            setting: says whether patches are averaged by soft masks or hard ones.
            grid: rows and columns of patches.
        """
        by_mean = setting.assignment == "hard" and clusters.weights is None
        weights = None if by_mean else clusters.pooling_weights(setting.assignment)
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
        tokens: Float[Tensor, "batch tokens token_width"],
        mask: Bool[Tensor, "batch tokens"],
        size: tuple[int, int],
        *,
        seed: int = 0,
        sampling_steps: int | None = None,
        sizes: Int[Tensor, "batch 2"] | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Pixels around [0, 1] (not clipped) painted from tokens, ``size`` being (height, width).

        Args:
            seed: of the noise that a flow decoder starts from; no other decoder is random.
            sampling_steps: steps of a flow decoder; ``None`` takes those of the config, 0 the plain decoder's picture.
            sizes: height and width of every picture in the upper left, as in ``tokenize``; the rest is painted black.
        """
        tokens = tokens.masked_fill(~mask.unsqueeze(-1), 0.0)  # whatever stands in padding, NaN too
        pixels: Tensor = self.detokenizer(tokens, mask, size, sizes).pixels
        flow = self.detokenizer.flow
        steps = 0 if flow is None else flow.sampling_steps if sampling_steps is None else sampling_steps
        if flow is not None and steps:
            pixels = sample(flow, pixels, tokens, mask, seed=seed, steps=steps, sizes=sizes)
        if sizes is None:
            return pixels
        return pixels * real_cells(sizes, size, 1).view(len(pixels), 1, *size)

    def gradient_checkpointing_enable(self) -> None:
        """Compute activations again in the backward pass, while in training mode, and do not keep them."""
        enable_checkpointing(self)
        self.encoder.gradient_checkpointing_enable()

    @torch.no_grad()
    def reconstruct(
        self,
        pixel_values: UInt8[Tensor, "batch 3 height width"],
        clustering: ClusteringConfig | None = None,
        *,
        seed: int = 0,
        sampling_steps: int | None = None,
        sizes: Int[Tensor, "batch 2"] | None = None,
    ) -> UInt8[Tensor, "batch 3 height width"]:
        """What is left of pictures when they go through their tokens; arguments as in ``tokenize`` and ``detokenize``."""
        visual = self.tokenize(pixel_values, clustering, sizes=sizes)
        size = (pixel_values.shape[-2], pixel_values.shape[-1])
        pixels = self.detokenize(
            visual.tokens, visual.mask, size, seed=seed, sampling_steps=sampling_steps, sizes=sizes
        )
        return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)

    def forward(
        self, pixel_values: UInt8[Tensor, "batch 3 height width"]
    ) -> tuple[VisualTokens, Float[Tensor, "batch 3 height width"]]:
        """Tokens and the reconstruction from them."""
        tokens = self.tokenize(pixel_values)
        size = (pixel_values.shape[-2], pixel_values.shape[-1])
        return tokens, self.detokenize(tokens.tokens, tokens.mask, size)


def _check_fit(config: TokenizerConfig, encoder: VisionEncoder) -> None:
    """Raises ConfigError where the encoder cannot have whole pictures with padding around them."""
    if not encoder.takes_mask:
        raise ConfigError(
            f"model.resize=fit needs an encoder that can leave padding out, and the tower of"
            f" encoder.path={config.encoder.path!r} cannot",
            "use resize: crop, encoder.kind=vit, or a NaFlex tower",
        )
    if config.encoder.patch_size != encoder.patch_size:
        raise ConfigError(
            f"model.resize=fit needs to know the encoder's patch, and encoder.patch_size={config.encoder.patch_size} is not"
            f" the tower's",
            f"set encoder.patch_size={encoder.patch_size}",
        )


def patchify(
    pixels: Float[Tensor, "batch 3 height width"], grid: tuple[int, int]
) -> Float[Tensor, "batch patches 3 n"]:
    """Cut pictures into the patches of a grid: [batch, patch, colour, pixel of the patch]."""
    return rearrange(pixels, "b c (h p) (w q) -> b (h w) c (p q)", h=grid[0], w=grid[1])
