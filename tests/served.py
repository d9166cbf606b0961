"""A tiny Setokim behind HTTP in a thread of the test's own, and pictures to send it."""

from __future__ import annotations

import base64
import functools
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import uvicorn
from PIL import Image

from ray_jobs.serving.app import create_app
from ray_jobs.serving.backend import Backend, LocalBackend
from setok.config import SequenceConfig, ServeConfig, build
from setok.models.setokim import Setokim
from setok.models.tokenizer import SeTok
from setok.predictor import Predictor
from setok.serving.engine import Engine
from setok.serving.keys import ApiKeys
from setok.serving.model import ServedModel
from tests.sequences import setok_config, setokim_config, shaken
from tests.text_tokenizers import tokenizer_of

NAME = "tiny"


@functools.cache
def predictor() -> Predictor:
    """Random weights that say letters, draw and point; not to be changed by a test."""
    torch.manual_seed(0)
    config = setokim_config(language_model={"tie_embeddings": False})
    model = shaken(Setokim(config, SeTok(setok_config()), tokenizer_of("gpt2")))
    with torch.no_grad():
        head = model.language_model.base.get_output_embeddings().weight
        head *= 2
        head[model.image_start_id] *= 5
    sequence = {"max_length": 200, "max_image_tokens": 6, "chat": {"template": "plain"}}
    return Predictor(model, SequenceConfig.model_validate(sequence))


def served_model() -> ServedModel:
    return ServedModel(NAME, predictor().model.tokenizer, predictor())


def serve_config(**changes: Any) -> ServeConfig:
    """``changes`` are dotted keys with ``__`` for the dot."""
    tree: dict[str, Any] = {"job": "serve", "name": "test", "checkpoint": NAME, "replicas": {"min": 0, "max": 0}}
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return build(ServeConfig, tree)


@contextmanager
def started_engine(config: ServeConfig | None = None, model: ServedModel | None = None) -> Iterator[Engine]:
    engine = Engine(model or served_model(), (config or serve_config()).batching)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop(timeout_s=20)


@contextmanager
def listening(backend: Backend, config: ServeConfig, keys: ApiKeys | None = None) -> Iterator[str]:
    """The application behind a socket; gives its address."""
    app = create_app(backend, config, keys or ApiKeys({}))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serving(keys: ApiKeys | None = None, **changes: Any) -> Iterator[str]:
    """Engine and application of a config."""
    config = serve_config(**changes)
    with started_engine(config) as engine, listening(LocalBackend(engine), config, keys) as address:
        yield address


def picture(width: int = 40, height: int = 32, *, colour: str = "red", kind: str = "PNG") -> bytes:
    """A file with a square on white."""
    pixels = np.full((height, width, 3), 240, np.uint8)
    pixels[6:20, 8:22] = {"red": (220, 40, 40), "blue": (50, 60, 220)}[colour]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def opened(base64_png: str) -> Image.Image:
    """The picture of an answer, from base64 or a data URL."""
    return Image.open(io.BytesIO(base64.b64decode(base64_png.rpartition(",")[2])))
