"""Setokim: a language model that reads pictures as SeTok's tokens, draws by saying such tokens, and points with masks.

    text, [Img] tokens [/Img] ─ language model ─ text
                                              ├─ visual tokens, one after the other, by a denoising network
                                              └─ [Seg] ─ mask

The hidden state at a place says what comes at the next one: a text token through the output layer, or a visual token through
the denoising network. Whether a picture goes on is said by the output layer too: before every further token of a picture
that is drawn it says ``[Img]``, and ``[/Img]`` after the last. So the number of tokens is the model's own decision.

Every module is called on every rank for every batch, pictures and masks or not: where there are none, a stand-in of weight
zero takes their place. Otherwise ranks that split the parameters (ZeRO-3) would wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from setok.batch import SequenceBatch
from setok.config import SetokimConfig
from setok.errors import CheckpointError, ConfigError
from setok.models import setokim_files
from setok.models.device import device_kind
from setok.models.language_model import LanguageModel, summed_cross_entropy
from setok.models.layers import enable_checkpointing
from setok.models.mask_decoder import MaskDecoder, mask_iou, mask_losses
from setok.models.setokim_targets import EncodedImages, SetokimOutput, Targets, find_targets, noise_keys, or_first
from setok.models.splice import IGNORED, Spliced, close_gaps
from setok.models.text_tokens import load_text_tokenizer
from setok.models.token_diffusion import TokenDiffusion, draw_noise
from setok.models.tokenizer import SeTok


class Setokim(nn.Module):
    """The language model, the frozen tokenizer, and what joins them."""

    def __init__(
        self,
        config: SetokimConfig,
        tokenizer: SeTok,
        text_tokenizer: Any,
        *,
        pretrained: bool = True,
        complete: bool = False,
    ) -> None:
        """Put it together.

        Args:
            tokenizer: stays as it is, in evaluation mode and without gradients.
            text_tokenizer: of transformers, with the special tokens of ``setok.models.language_model``.
            pretrained: read the language model's weights from ``config.language_model.path``.
            complete: those weights have rows for the special tokens already, trained by Setokim.

        Raises:
            CheckpointError: the language model cannot be loaded.
            ConfigError: it lacks what is needed, or a package or device is missing.
        """
        super().__init__()
        self.config = config
        self.text_tokenizer = text_tokenizer
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self.language_model = LanguageModel(
            config.language_model, text_tokenizer, pretrained=pretrained, complete=complete
        )
        self.image_start_id, self.image_end_id, self.segment_id = self.language_model.new_ids
        ends = (text_tokenizer.pad_token_id, text_tokenizer.eos_token_id, 0)
        self.padding_id: int = next(i for i in ends if i is not None)
        width, token_width = self.language_model.width, tokenizer.config.detokenizer.width
        self.token_width = token_width
        self.input_projector = nn.Sequential(
            nn.LayerNorm(token_width), nn.Linear(token_width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.output_projector = _projector(width, config.diffusion.width)
        self.diffusion = TokenDiffusion(config.diffusion, token_width, config.diffusion.width)
        self.mask_projector: nn.Module | None = None
        self.mask_decoder: MaskDecoder | None = None
        if config.mask_decoder is not None:
            self.mask_projector = _projector(width, token_width)
            self.mask_decoder = MaskDecoder(
                config.mask_decoder, token_width, tokenizer.encoder.width, tokenizer.clustering.width
            )

    @classmethod
    def from_config(cls, config: SetokimConfig) -> Setokim:
        """A new model from the parts that a config names.

        Raises:
            ConfigError: it names no tokenizer, or no text tokenizer.
            CheckpointError: a part is missing or damaged.
        """
        text = config.text_tokenizer or config.language_model.path
        for key, value in (("tokenizer", config.tokenizer), ("text_tokenizer", text)):
            if value is None:
                raise ConfigError(
                    f"{key} is empty, and Setokim needs one",
                    "set it to the folder of an exported SeTok"
                    if key == "tokenizer"
                    else "set it to a folder with tokenizer.json, or set language_model.path to a model that has one",
                )
        assert config.tokenizer is not None and text is not None
        return cls(config, SeTok.from_pretrained(config.tokenizer), load_text_tokenizer(text))

    @classmethod
    def from_pretrained(cls, path: str | Path, *, dtype: torch.dtype = torch.float32) -> Setokim:
        """A model that ``save_pretrained`` wrote, in evaluation mode on the CPU.

        Args:
            path: its folder, or a hub id.
            dtype: of the weights, whatever they are stored in.

        Raises:
            CheckpointError: there is none, it is damaged or of another version, or its parts do not fit together.
        """
        folder = setokim_files.local_folder(path)
        config, token_width = setokim_files.read_config(folder)
        tokenizer = SeTok.from_pretrained(folder / setokim_files.TOKENIZER)
        require_token_width(token_width, tokenizer, str(folder))
        model = cls(config, tokenizer, load_text_tokenizer(folder), complete=True)
        setokim_files.read_heads(folder, model)
        return model.to(dtype).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write one folder with everything: config.json, weights, the language model as transformers keeps it, SeTok, the text
        tokenizer, preprocessor settings and a model card.

        Raises:
            ConfigError: adapters have not been merged (``merge_lora``), or the weights are quantised.
        """
        setokim_files.write(Path(folder), self)

    def train(self, mode: bool = True) -> Setokim:
        """Training mode for all but the tokenizer, which stays as it is."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def merge_lora(self) -> None:
        """Put the adapters into the language model's weights; see ``LanguageModel.merge_lora``."""
        self.language_model.merge_lora()
        self.config = self.config.model_copy(update={"language_model": self.language_model.config})

    def gradient_checkpointing_enable(self) -> None:
        """Recompute the activations of the language model's and the heads' blocks in the backward pass."""
        self.language_model.gradient_checkpointing_enable()
        if self.mask_decoder is not None:
            enable_checkpointing(self.mask_decoder)

    @property
    def max_image_tokens(self) -> int:
        """The most tokens that a picture can have: the places it takes in a ``SequenceBatch``."""
        return self.tokenizer.config.clustering.num_tokens

    # ------------------------------------------------------------ reading

    @torch.no_grad()
    def encode_images(self, pixel_values: UInt8[Tensor, "images 3 height width"]) -> EncodedImages:
        """Tokens and patch features of pictures; one black picture stands in where there is none."""
        if not len(pixel_values):
            pixel_values = pixel_values.new_zeros((1, *pixel_values.shape[1:]))
        patches = self.tokenizer.encoder(pixel_values)
        return EncodedImages(visual=self.tokenizer.tokenize_features(patches, pixel_values), patches=patches)

    def splice(self, batch: SequenceBatch, images: EncodedImages) -> Spliced:
        """The batch's rows with exactly the tokens that its pictures have."""
        rows = close_gaps(batch, images.visual.counts, self.padding_id)
        # On a CPU nothing waits for the device, and shorter rows are less work.
        eager = device_kind(batch.input_ids) == "cpu" and not torch.compiler.is_compiling()
        return rows.trimmed() if eager else rows

    def targets(self, batch: SequenceBatch, rows: Spliced, images: EncodedImages) -> Targets:
        """What is to be learned from a micro-batch, without running the language model."""
        return find_targets(batch, rows, images, going_on_id=self.image_start_id, end_id=self.image_end_id)

    def embed(self, rows: Spliced, images: EncodedImages) -> Float[Tensor, "rows length width"]:
        """What the language model reads at every place."""
        text = self.language_model.embed(rows.input_ids)
        limit = images.visual.tokens.shape[1]
        projected = self.project_tokens(images.visual.tokens).flatten(0, 1)
        index = (rows.image_index * limit + rows.image_offset).clamp_min(0)
        return torch.where(rows.is_visual.unsqueeze(-1), projected[index].to(text.dtype), text)

    def project_tokens(self, tokens: Float[Tensor, "*n token"]) -> Float[Tensor, "*n width"]:
        """The tokenizer's tokens as the language model reads them."""
        projected: Tensor = self.input_projector(_cast(tokens, self.input_projector))
        return projected

    # ------------------------------------------------------------ learning

    def forward(self, batch: SequenceBatch, *, noise_key: str, images: EncodedImages | None = None) -> SetokimOutput:
        """Losses of a micro-batch, summed.

        Args:
            noise_key: names the diffusion's random numbers, such as run seed and step; with it they are a function of the sample
                alone, so neither packing, batch mates nor ranks change a loss.
            images: of ``encode_images``, where they are there already.
        """
        images = self.encode_images(batch.pixel_values) if images is None else images
        rows = self.splice(batch, images)
        targets = self.targets(batch, rows, images)
        hidden = self.language_model(self.embed(rows, images), rows.segment_ids, rows.position_ids)
        states = hidden.flatten(0, 1)
        text, stop, correct = self._text(states, targets)
        diffusion = self._diffusion(states, batch, rows, targets, images, noise_key)
        logits, cross_entropy, dice, iou = self._masks(states, batch, targets, images)
        places = (rows.segment_ids > 0).sum().float()
        statistics = correct | {
            "mask_dice_iou": iou,
            "places": places,
            "padding": rows.segment_ids.numel() - places,
            "image_tokens": rows.is_visual.sum().float(),
            "images": places.new_tensor(float(len(batch.pixel_values))),
        }
        return SetokimOutput(
            text=text,
            stop=stop,
            diffusion=diffusion,
            mask_cross_entropy=cross_entropy,
            mask_dice=dice,
            counts=targets.counts,
            statistics=statistics,
            mask_logits=logits.detach(),
        )

    def _text(
        self, states: Float[Tensor, "places width"], targets: Targets
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Cross-entropy of text and of stopping, at the labelled places only."""
        labels = targets.labels.flatten()
        chosen = or_first((labels != IGNORED).nonzero().squeeze(1), labels)
        loss, right = summed_cross_entropy(self.language_model, states[chosen], labels[chosen])
        is_stop = targets.is_stop.flatten()[chosen]
        sums = [((loss * part).sum(), (right & part).sum().float()) for part in (~is_stop, is_stop)]
        return sums[0][0], sums[1][0], {"text_correct": sums[0][1], "stop_correct": sums[1][1]}

    def _diffusion(
        self,
        states: Float[Tensor, "places width"],
        batch: SequenceBatch,
        rows: Spliced,
        targets: Targets,
        images: EncodedImages,
        noise_key: str,
    ) -> Float[Tensor, ""]:
        """Squared error of the visual tokens that are to be drawn, each conditioned on the place before it."""
        wanted = targets.tokens.flatten()
        chosen = or_first(wanted.nonzero().squeeze(1), wanted)
        keys, counts = noise_keys(batch, rows, targets, noise_key)
        draw = draw_noise(keys, counts, self.token_width, self.config.diffusion, states.device)
        before = (targets.token_places.flatten()[chosen] - 1).clamp_min(0)
        condition = self.output_projector(_cast(states[before], self.output_projector))
        loss = self.diffusion(condition, images.visual.tokens.flatten(0, 1)[chosen], draw)
        return (loss * wanted[chosen]).sum()

    def _masks(
        self, states: Float[Tensor, "places hidden"], batch: SequenceBatch, targets: Targets, images: EncodedImages
    ) -> tuple[Float[Tensor, "masks height width"], Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
        """Logits of the masks, their two losses, and the intersection over union, summed."""
        nothing = states.new_zeros((), dtype=torch.float32)
        if self.config.mask_decoder is None:
            return batch.masks.new_zeros(batch.masks.shape, dtype=torch.float32), nothing, nothing, nothing
        masks, pictures, valid, places = batch.masks, batch.mask_image.long(), targets.masks, targets.mask_places
        pixels = (
            batch.pixel_values
            if len(batch.pixel_values)
            else batch.pixel_values.new_zeros((1, *batch.pixel_values.shape[1:]))
        )
        if not len(masks):  # a stand-in: the first picture, an empty mask
            pictures, valid = pictures.new_zeros(1), valid.new_zeros(1)
            places, masks = places.new_zeros(1), masks.new_zeros((1, *pixels.shape[-2:]))
        logits = self.point(states[places.clamp_min(0)], images[pictures], pixels[pictures])
        resized = F.interpolate(logits.unsqueeze(1), masks.shape[-2:], mode="bilinear", align_corners=False).squeeze(1)
        cross_entropy, dice = mask_losses(resized, masks, gamma=self.config.mask_decoder.focal_gamma)
        iou = (mask_iou(resized.detach(), masks) * valid).sum()
        return resized[: len(batch.masks)], (cross_entropy * valid).sum(), (dice * valid).sum(), iou

    def point(
        self,
        states: Float[Tensor, "masks hidden"],
        images: EncodedImages,
        pixel_values: UInt8[Tensor, "masks 3 height width"],
    ) -> Float[Tensor, "masks height width"]:
        """Mask logits of every pixel, from hidden states at ``[Seg]`` and the pictures that the masks are in.

        Raises:
            ConfigError: the model has no mask decoder.
        """
        if self.mask_decoder is None or self.mask_projector is None:
            raise ConfigError("this model has no mask decoder", "train one with mask_decoder set in its config")
        query = self.mask_projector(_cast(states, self.mask_projector))
        logits: Tensor = self.mask_decoder(query, images.visual, images.patches, pixel_values)
        return logits

    # ------------------------------------------------------------ painting

    @torch.no_grad()
    def paint(
        self, tokens: Sequence[Float[Tensor, "_ token"]], size: tuple[int, int], *, seed: int = 0
    ) -> UInt8[Tensor, "images 3 height width"]:
        """Pictures of ``size`` (height, width) from the tokens of each; ``seed`` is that of a flow decoder's noise."""
        longest = max(len(one) for one in tokens)
        padded = torch.stack([F.pad(one, (0, 0, 0, longest - len(one))) for one in tokens])
        mask = torch.arange(longest, device=padded.device) < torch.tensor(
            [len(one) for one in tokens], device=padded.device
        ).unsqueeze(1)
        pixels = self.tokenizer.detokenize(padded, mask, size, seed=seed)
        return (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)


def require_token_width(expected: int, tokenizer: SeTok, where: str) -> None:
    """Refuse a tokenizer whose tokens are not as wide as those that a model was trained with.

    Raises:
        CheckpointError: it names both widths.
    """
    found = tokenizer.config.detokenizer.width
    if found != expected:
        raise CheckpointError(
            f"{where} was trained with visual tokens of width {expected}, and the tokenizer gives width {found}",
            f"use the tokenizer it was trained with, or train the projectors anew for width {found}",
        )


def _projector(width: int, to: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, to))


def _cast(states: Float[Tensor, "*n width"], module: nn.Module) -> Float[Tensor, "*n width"]:
    """Hidden states in the type of the weights that take them."""
    return states.to(next(module.parameters()).dtype)
