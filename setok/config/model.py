"""Settings of the models: encoder, clustering, merger, detokenizer and what trains beside them."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from setok.config.section import Section
from setok.errors import ConfigError


class EncoderConfig(Section):
    """The vision encoder: pixels to patch features."""

    kind: Literal["vit", "huggingface", "timm"] = "vit"
    """``vit`` is trained from scratch; ``huggingface`` loads a vision tower of transformers (SigLIP, SigLIP2, CLIP,
    DINOv2, DINOv3), ``timm`` a vision transformer of timm."""
    path: str | None = None
    """Local folder or hub id of the tower (``huggingface``), local folder or model name (``timm``)."""
    layer: int = -1
    """Which hidden layer gives the features: 0 is the embedding, -1 the last one (normalised), -2 the one before it."""
    patch_size: int = Field(4, ge=1)
    width: int = Field(96, ge=8)
    depth: int = Field(1, ge=0)
    num_heads: int = Field(3, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> EncoderConfig:
        if self.kind != "vit" and not self.path:
            raise ConfigError(
                f"encoder.kind={self.kind} needs encoder.path, and it is empty",
                "set it to a local folder with config.json and weights, or to a hub id"
                + (" or model name of timm" if self.kind == "timm" else ""),
            )
        if self.kind == "vit" and self.width % self.num_heads:
            raise ConfigError(
                f"encoder.width={self.width} is not a multiple of encoder.num_heads={self.num_heads}",
                f"use a width such as {self.num_heads * math.ceil(self.width / self.num_heads)}",
            )
        return self


class ClusteringConfig(Section):
    """How patches are grouped into tokens; see setok/models/clustering.

    A threshold or number that the method does not use is an error, so that a run never seems to depend on it.
    """

    method: Literal["stick_breaking", "dpc_knn", "cosine_graph", "grid", "kmeans", "resampler"] = "stick_breaking"
    """The first three let the picture decide the number of tokens; the others always make ``num_tokens``."""
    assignment: Literal["soft", "hard"] = "soft"
    """``soft``: a token is the mask-weighted mean of its patches; ``hard``: the mean of the patches it wins."""
    feature_dim: int | None = Field(None, ge=2)
    """Width of a learned projection that is clustered in place of the encoder's features; ``null`` clusters those."""
    num_neighbors: int = Field(6, ge=1)
    """``stick_breaking``, ``dpc_knn``, ``kmeans``: neighbours in the local density."""
    score_threshold: float = Field(0.2, ge=0.0)
    """``dpc_knn``: patches whose score exceeds this become centres."""
    relative_threshold: bool = True
    """``dpc_knn``: read ``score_threshold`` as a share of the image's best score."""
    similarity_threshold: float = Field(0.7, ge=-1.0, lt=1.0)
    """``cosine_graph``: θ, patches of a higher cosine similarity are linked."""
    num_clusters: int | None = Field(None, ge=1)
    """``dpc_knn``: take exactly this many best-scored centres and ignore the threshold; ``grid``, ``kmeans``,
    ``resampler``: number of tokens, ``null`` for ``max_tokens``."""
    num_iterations: int = Field(10, ge=0)
    """``kmeans``: how often the centres are recomputed."""
    sharpness: float | None = Field(None, gt=0.0)
    """``stick_breaking``: c of φ(u,v)=exp(−‖u−v‖²·c·ln 2); ``null`` means ``max_tokens``, as GENESIS-V2 does."""
    stop_mass: float = Field(2.0, ge=0.0)
    """``stick_breaking``: stop when a new mask covers less than this many patches."""
    stop_scope: float = Field(0.03, ge=0.0, lt=1.0)
    """``stick_breaking``: stop when less than this share of the image is left unexplained."""
    split_regions: int = Field(0, ge=0)
    """Cut clusters into connected regions of at least this many patches, each a token of its own; 0 leaves them whole.
    For the methods where the picture decides the number of tokens."""
    min_tokens: int = Field(1, ge=1)
    max_tokens: int = Field(12, ge=1)

    @property
    def num_tokens(self) -> int:
        """Tokens of every image, for methods that make a fixed number; otherwise the most there can be."""
        return self.num_clusters or self.max_tokens

    @model_validator(mode="after")
    def _consistent(self) -> ClusteringConfig:
        if self.min_tokens > self.max_tokens:
            raise ConfigError(
                f"clustering.min_tokens={self.min_tokens} is above clustering.max_tokens={self.max_tokens}",
                "lower the first or raise the second",
            )
        if self.num_clusters is not None and self.num_clusters > self.max_tokens:
            raise ConfigError(
                f"clustering.num_clusters={self.num_clusters} is above clustering.max_tokens={self.max_tokens}",
                f"set clustering.max_tokens={self.num_clusters}",
            )
        if self.num_clusters is not None and self.num_clusters < self.min_tokens:
            raise ConfigError(
                f"clustering.num_clusters={self.num_clusters} is below clustering.min_tokens={self.min_tokens}",
                f"set clustering.min_tokens={self.num_clusters}",
            )
        for key, methods in _CLUSTERING_KNOBS.items():
            value, default = getattr(self, key), type(self).model_fields[key].default
            if value != default and self.method not in methods:
                raise ConfigError(
                    f"clustering.{key}={value} has no part in clustering.method={self.method}",
                    f"set clustering.{key}={'null' if default is None else default} or leave it out;"
                    f" it belongs to {', '.join(methods)}",
                )
        return self


_CLUSTERING_KNOBS = {
    "num_neighbors": ("stick_breaking", "dpc_knn", "kmeans"),
    "score_threshold": ("dpc_knn",),
    "relative_threshold": ("dpc_knn",),
    "similarity_threshold": ("cosine_graph",),
    "num_clusters": ("dpc_knn", "grid", "kmeans", "resampler"),
    "num_iterations": ("kmeans",),
}
"""Which methods use a setting. Those that presets tune for ``stick_breaking`` are not here: ``--set
model.clustering.method=kmeans`` must work on any preset, so that tokenizers can be swapped and compared."""


class MergerConfig(Section):
    """The token merger: attention inside clusters, average, attention between clusters."""

    intra_layers: int = Field(1, ge=0)
    inter_layers: int = Field(1, ge=0)
    num_heads: int = Field(3, ge=1)
    mlp_ratio: float = Field(3.0, gt=0.0)
    position: bool = True
    """Add 2-D positions to the patches before merging."""
    relative_position: bool = False
    """Also add where a patch lies in its cluster: seen from the cluster's centre, in units of its extent."""
    outline: int = Field(0, ge=0)
    """Tell every token the outline of its cluster: its place, size and a crop of its mask of this many cells a side; 0 does
    not."""


class FlowConfig(Section):
    """The flow decoder: carries the pixel decoder's picture to one that is as sharp as real ones (setok/models/flow.py)."""

    depth: int = Field(2, ge=1)
    patch_size: int = Field(4, ge=1)
    """Side of the squares that it works on; their pixels must fit into ``detokenizer.width`` channels."""
    noise: float = Field(0.2, gt=0.0)
    """Deviation of the noise on the pixel decoder's picture, where black to white is 2."""
    sampling_steps: int = Field(8, ge=1)
    """Euler steps at inference; can be changed there."""


class DetokenizerConfig(Section):
    """Tokens to pixels: learnable mask tokens query the semantic tokens."""

    kind: Literal["pixels", "flow"] = "pixels"
    """``flow`` refines the plain decoder's picture with a rectified flow: sharper from few tokens, and slower."""
    flow: FlowConfig = FlowConfig()
    """Used with ``kind: flow``."""
    width: int = Field(96, ge=8)
    depth: int = Field(2, ge=1)
    num_heads: int = Field(3, ge=1)
    mlp_ratio: float = Field(3.0, gt=0.0)
    patch_size: int = Field(8, ge=1)
    """Side of the square of pixels that one mask token paints; coarser than the encoder's patch is cheaper."""


class ConceptConfig(Section):
    """The frozen encoder of noun concepts, the other side of the concept contrast."""

    kind: Literal["hash", "huggingface"] = "hash"
    """``hash``: a fixed random vector for every phrase, no weights; ``huggingface``: a SigLIP or CLIP text tower."""
    path: str | None = None
    dim: int = Field(64, ge=4)
    """Width of the ``hash`` vectors."""
    prompt: str = "A photo of a {}."

    @model_validator(mode="after")
    def _consistent(self) -> ConceptConfig:
        if self.kind == "huggingface" and not self.path:
            raise ConfigError(
                "concepts.kind=huggingface needs concepts.path, and it is empty", "set it, or use kind: hash"
            )
        if "{}" not in self.prompt:
            raise ConfigError(
                f"concepts.prompt={self.prompt!r} has no place for the concept", "write {} where it belongs"
            )
        return self


class DiscriminatorConfig(Section):
    """PatchGAN (Isola et al. 2017), as used by VQGAN."""

    width: int = Field(64, ge=4)
    depth: int = Field(3, ge=1)
    normalization: Literal["instance", "batch"] = "instance"
    """``batch`` is the original's; ``instance`` leaves the result independent of the batch."""


class TokenizerConfig(Section):
    """SeTok: encoder, clustering, merger, detokenizer."""

    image_size: int = Field(64, ge=8)
    """Side of the square the picture is resized to, in pixels."""
    resize: Literal["crop", "fit"] = "crop"
    """``crop`` cuts the square in the middle of a picture. ``fit`` keeps all of it and its shape: its longer side becomes
    ``image_size``, and the rest of the square is padding that nothing looks at; the encoder must be able to leave it out
    (``vit``, or a NaFlex tower whose patch is named by ``encoder.patch_size``)."""
    encoder: EncoderConfig = EncoderConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    merger: MergerConfig = MergerConfig()
    detokenizer: DetokenizerConfig = DetokenizerConfig()

    @property
    def fit_multiple(self) -> int | None:
        """What the sides of a picture are multiples of under ``resize: fit``: all patches; ``None`` where it is cropped."""
        if self.resize == "crop":
            return None
        flow = self.detokenizer.flow.patch_size if self.detokenizer.kind == "flow" else 1
        return math.lcm(self.encoder.patch_size, self.detokenizer.patch_size, flow)

    @model_validator(mode="after")
    def _consistent(self) -> TokenizerConfig:
        if self.fit_multiple is not None and self.encoder.kind == "timm":
            raise ConfigError(
                "model.resize=fit needs an encoder that can leave padding out, and encoder.kind=timm cannot",
                "use resize: crop, encoder.kind=vit, or a NaFlex tower with encoder.kind=huggingface",
            )
        if self.fit_multiple is not None and self.image_size % self.fit_multiple:
            raise ConfigError(
                f"model.resize=fit needs an image_size that all patches divide, and {self.image_size} is no multiple of"
                f" {self.fit_multiple}",
                f"set image_size={max(1, self.image_size // self.fit_multiple) * self.fit_multiple}",
            )
        checks = [("detokenizer.patch_size", self.detokenizer.patch_size)]
        if self.encoder.kind == "vit":
            checks.append(("encoder.patch_size", self.encoder.patch_size))
        if self.detokenizer.kind == "flow":
            side, width = self.detokenizer.flow.patch_size, self.detokenizer.width
            checks.append(("detokenizer.flow.patch_size", side))
            if 3 * side**2 > width:
                raise ConfigError(
                    f"detokenizer.flow.patch_size={side} gives squares of {3 * side**2} values, which do not fit into"
                    f" detokenizer.width={width} channels",
                    f"use at most {math.isqrt(width // 3)}, or a wider detokenizer",
                )
        for key, size in checks:
            if self.image_size % size:
                allowed = [s for s in (2, 4, 7, 8, 14, 16, 32) if self.image_size % s == 0]
                raise ConfigError(
                    f"image_size={self.image_size} is not a multiple of {key}={size}",
                    f"patch sizes that fit {self.image_size}: {', '.join(map(str, allowed)) or 'none of the usual ones'}",
                )
        for part, section in (("merger", self.merger), ("detokenizer", self.detokenizer)):
            width = self.detokenizer.width
            if width % section.num_heads:
                raise ConfigError(
                    f"{part}.num_heads={section.num_heads} does not divide detokenizer.width={width}",
                    f"heads that do: {', '.join(str(h) for h in range(1, 17) if width % h == 0)}",
                )
        return self
