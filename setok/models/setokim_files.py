"""Setokim as one folder, as Hugging Face lays models out.

config.json  model.safetensors        projectors and heads
language_model/                       the language model, which transformers loads by itself
setok/                                the tokenizer, which ``SeTok.from_pretrained`` loads by itself
tokenizer.json …                      the text tokenizer
preprocessor_config.json  README.md   picture settings, model card
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from safetensors.torch import save_file

from setok.config import SetokimConfig
from setok.errors import CheckpointError, ConfigError
from setok.models import pretrained as tokenizer_files
from setok.models.language_model_loading import SIZES
from setok.models.text_tokens import quiet_transformers
from setok.vocabulary import SPECIAL_TOKENS

if TYPE_CHECKING:
    from setok.models.setokim import Setokim

FORMAT = 1
CONFIG, WEIGHTS, PREPROCESSOR, CARD = "config.json", "model.safetensors", "preprocessor_config.json", "README.md"
TOKENIZER, LANGUAGE_MODEL = "setok", "language_model"


def local_folder(path: str | Path) -> Path:
    """The folder of an exported Setokim that a path or a hub id means.

    Raises:
        CheckpointError: there is none.
    """
    return tokenizer_files.exported_folder(path, what="Setokim")


def write(folder: Path, model: Setokim) -> None:
    """Write everything that ``Setokim.from_pretrained`` reads.

    Raises:
        ConfigError: adapters have not been merged, or the weights are quantised.
    """
    language_model = model.language_model
    if language_model.new_tokens is not None or language_model.config.quantization:
        raise ConfigError(
            f"language_model.train={language_model.config.train}: adapters and embeddings lie beside the weights, not in them",
            "call model.merge_lora() before model.save_pretrained(folder)",
        )
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "model_type": "setokim",
        "format": FORMAT,
        "token_width": model.token_width,
        # Where its parts came from means nothing elsewhere: they are in the folder.
        "setokim": model.config.model_dump(mode="json", exclude={"tokenizer", "text_tokenizer"}),
    }
    (folder / CONFIG).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in _heads(model).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with quiet_transformers():
        language_model.base.save_pretrained(folder / LANGUAGE_MODEL)
    model.tokenizer.save_pretrained(folder / TOKENIZER)
    model.text_tokenizer.save_pretrained(folder)
    shutil.copyfile(folder / TOKENIZER / PREPROCESSOR, folder / PREPROCESSOR)
    (folder / CARD).write_text(_card(model), encoding="utf-8")


def read_config(folder: Path) -> tuple[SetokimConfig, int]:
    """The model that a folder holds, its language model's path made absolute, and the width of its visual tokens.

    Raises:
        CheckpointError: it is of another kind or version.
    """
    stored = tokenizer_files.stored_config(
        folder,
        "setokim",
        FORMAT,
        "give the folder that Setokim.save_pretrained wrote; a tokenizer is loaded by SeTok.from_pretrained",
    )
    described = stored["setokim"]
    try:
        own = {key: value for key, value in described["language_model"].items() if key not in SIZES}
        described["language_model"] = own | {"path": str(folder / LANGUAGE_MODEL)}
        return SetokimConfig.model_validate(described), int(stored["token_width"])
    except (ValidationError, ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / CONFIG} is not valid for this version: {error}", "use the version of setok that wrote it"
        ) from error


def read_heads(folder: Path, model: Setokim) -> None:
    """Copy the folder's weights into projectors and heads; names and shapes must be exactly those of the model.

    Raises:
        CheckpointError: the file is missing or damaged, or is of another model; names the keys that differ.
    """
    heads = _heads(model)
    weights = tokenizer_files.matching_weights(folder, heads)
    for name, tensor in heads.items():  # they share their memory with the model
        tensor.copy_(weights[name])


def _heads(model: Setokim) -> dict[str, Any]:
    """Weights of what lies neither in the tokenizer nor in the language model."""
    apart = ("tokenizer.", "language_model.")
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(apart)}


def _card(model: Setokim) -> str:
    """The model card."""
    config = model.config
    total = sum(p.numel() for p in model.parameters())
    points = "" if config.mask_decoder is None else ", and points with masks"
    base, size = model.language_model.base, model.tokenizer.config.image_size
    return f"""---
library_name: setok
license: apache-2.0
pipeline_tag: any-to-any
tags: [setok, multimodal, image-text-to-text, text-to-image]
---
# Setokim

A language model that reads pictures as semantic tokens, draws by saying such tokens{points}.

| | |
|---|---|
| language model | {type(base).__name__}, {base.config.num_hidden_layers} layers, width {model.language_model.width} |
| visual tokens | SeTok, width {model.token_width}, at most {model.max_image_tokens} a picture of {size} pixels |
| drawing | token diffusion, {config.diffusion.prediction}, {config.diffusion.sampling_steps} steps |
| special tokens | {", ".join(f"`{token}`" for token in SPECIAL_TOKENS)} |
| parameters | {total:,} |

```python
from setok.models.setokim import Setokim

model = Setokim.from_pretrained("path/of/this/folder")
```

`language_model/` is a model of transformers and `setok/` a SeTok tokenizer: each loads by itself.
"""
