"""What requests mean: OpenAI's messages to conversations with slots, options to options, and settings of the clustering."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Literal

from pydantic import ValidationError

from setok.config import ClusteringConfig, LimitsConfig
from setok.data.chat import Message, Slot
from setok.errors import ConfigError, DataError
from setok.models.generation import GenerationOptions
from setok.serving.model import Card
from setok.serving.schemas import ChatMessage, ChatRequest, ImagePiece, LookRequest, unsupported_fields


class FieldError(ConfigError):
    """A field of a request asks for what there is not.

    Args:
        field: its name.
    """

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.field = field


def conversation_of(messages: Sequence[ChatMessage]) -> tuple[list[Message], list[str]]:
    """Messages as turns with slots, and the URLs of their pictures in the order of the slots.

    A picture and the text beside it stand on lines of their own, as in training. Texts are texts: nothing in them is a slot or a
    special token.

    Raises:
        DataError: the last message is not the user's, or one is empty.
    """
    if messages[-1].role != "user":
        raise DataError(
            f"the last message is of role {messages[-1].role!r}", "end with a message of role 'user' to be answered"
        )
    turns, urls = [], []
    for number, message in enumerate(messages):
        pieces: list[str | Slot] = []
        for piece in _pieces(message):
            if isinstance(piece, str):
                pieces.append(piece)
            else:
                pieces.append(Slot.IMAGE)
                urls.append(piece.image_url.url)
        if not pieces:
            raise DataError(f"messages[{number}] is empty", "give it content")
        role = "system" if message.role == "developer" else message.role
        turns.append(Message(role=role, parts=_on_lines(pieces)))
    return turns, urls


def _pieces(message: ChatMessage) -> list[str | ImagePiece]:
    content = message.content
    texts = [content] if isinstance(content, str) else content or []
    pieces = [piece if isinstance(piece, (str, ImagePiece)) else piece.text for piece in texts]
    return [piece for piece in pieces if piece != ""] + list(message.images or [])


def _on_lines(pieces: Sequence[str | Slot]) -> tuple[str | Slot, ...]:
    """The pieces with line ends between pictures and texts; texts that follow each other are one."""
    parts: list[str | Slot] = []
    for piece in pieces:
        before = parts[-1] if parts else None
        if before is None:
            parts.append(piece)
        elif isinstance(piece, Slot):
            if isinstance(before, Slot):
                parts.append(piece)
            else:
                parts[-1:] = [before if before.endswith("\n") else f"{before}\n", piece]
        elif isinstance(before, Slot):
            parts.append(piece if piece.startswith("\n") else f"\n{piece}")
        else:
            parts[-1] = before + piece
    return tuple(parts)


def options_of(request: ChatRequest, limits: LimitsConfig) -> GenerationOptions:
    """How a reply is to go on.

    Raises:
        ConfigError: it asks for more than there may be, or for what there is not.
    """
    refused = unsupported_fields(request)
    if refused:
        raise FieldError(refused[0], f"{refused[0]} is not supported here", "leave it out")
    asked = request.max_completion_tokens or request.max_tokens or limits.default_new_tokens
    if asked > limits.max_new_tokens:
        name = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
        raise FieldError(
            name, f"{name}={asked} is above {limits.max_new_tokens}", f"ask for {limits.max_new_tokens} at most"
        )
    return GenerationOptions(
        mode=_mode(request.modalities),
        max_new_tokens=asked,
        temperature=request.temperature or 0.0,
        top_p=request.top_p or 1.0,
        guidance=1.0 if request.guidance is None else request.guidance,
    )


def _mode(modalities: Sequence[str] | None) -> Literal["free", "text", "picture"]:
    if modalities is None or set(modalities) == {"text", "image"}:
        return "free"
    if set(modalities) == {"text"}:
        return "text"
    if set(modalities) == {"image"}:
        return "picture"
    raise FieldError("modalities", "modalities is empty", "give 'text', 'image' or both")


def stops_of(request: ChatRequest) -> tuple[str, ...]:
    """Texts at which a reply ends."""
    stop = request.stop
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def seeds_of(seed: int | None, number: int) -> list[int]:
    """Of every reply to a request: its seed, or one that nobody knows, and the next ones (the smallest follows the largest)."""
    first = secrets.randbelow(2**31) if seed is None else seed
    return [(first + index + 2**63) % 2**64 - 2**63 for index in range(number)]


def number_of(asked: int | None, most: int) -> int:
    """How many replies a request is to have.

    Args:
        asked: its ``n``.
        most: what it may be (``ServeConfig.max_choices``).

    Raises:
        ConfigError: it asks for more.
    """
    number = asked or 1
    if number > most:
        raise FieldError("n", f"n={number} is above {most}", f"ask for {most} at most")
    return number


def clustering_of(request: LookRequest, card: Card) -> ClusteringConfig | None:
    """The clustering that a request asks for; ``None`` for the trained one.

    Raises:
        ConfigError: the method has no threshold, or a value is not possible.
    """
    trained = card.clustering
    changes: dict[str, float | int] = {}
    if request.threshold is not None:
        if card.threshold is None:
            raise FieldError(
                "threshold",
                f"threshold={request.threshold:g}: {trained.method} makes a fixed number of tokens",
                "ask for max_tokens",
            )
        changes[card.threshold[0]] = request.threshold
    most = request.max_tokens
    for name, asked in (("min_tokens", request.min_tokens), ("max_tokens", most)):
        if asked is not None and asked > card.num_patches:
            raise FieldError(
                name,
                f"{name}={asked} is above the {card.num_patches} patches of a picture",
                f"ask for {card.num_patches} at most",
            )
    if request.min_tokens is not None:
        changes["min_tokens"] = request.min_tokens
    if most is not None:
        changes |= {"max_tokens": most, "min_tokens": changes.get("min_tokens", min(trained.min_tokens, most))}
        if trained.num_clusters is not None:
            changes["num_clusters"] = most
    if not changes:
        return None
    try:
        return ClusteringConfig.model_validate(trained.model_dump() | changes)
    except ValidationError as error:
        first = error.errors()[0]
        known = card.threshold is not None and first["loc"] == (card.threshold[0],)
        field = "threshold" if known else first["loc"][0]
        raise FieldError(str(field), f"{field}={first['input']}: {first['msg']}", "ask for another value") from error
