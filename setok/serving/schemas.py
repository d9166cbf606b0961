"""Requests and answers as JSON: OpenAI's, with what pictures need added, and ours for tokens, reconstructions and regions.

Fields of OpenAI's that mean nothing here are passed over, as other servers do; those whose effect somebody would miss are refused
(``unsupported_fields``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXT = 100_000
"""Characters of one text; the language model reads far fewer."""
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Described(BaseModel):
    """Base of all: what stands beneath a field describes it in the API's page."""

    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False)


class Lenient(Described):
    """A request: unknown fields are passed over."""

    model_config = ConfigDict(extra="ignore")


# ---------------------------------------------------------------- chat


class ImageUrl(Lenient):
    url: str
    """``data:image/png;base64,…``, or a URL of a host that the server allows."""


class TextPiece(Lenient):
    type: Literal["text"]
    text: str = Field(max_length=MAX_TEXT)


class ImagePiece(Lenient):
    type: Literal["image_url"]
    image_url: ImageUrl


Piece = Annotated[TextPiece | ImagePiece, Field(discriminator="type")]


class ChatMessage(Lenient):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=MAX_TEXT)] | list[Piece] | None = None
    images: list[ImagePiece] | None = None
    """Of the assistant: pictures that it drew, as its answers have them."""


class StreamOptions(Lenient):
    include_usage: bool = False


class ChatRequest(Lenient):
    """OpenAI's, with ``modalities: ["text"]`` or ``["image"]`` to have only words or one picture, and ``guidance``."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    """Default 0: the most likely words."""
    top_p: float | None = Field(None, gt=0, le=1)
    seed: Seed | None = None
    stop: (
        Annotated[str, Field(max_length=200)]
        | Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=4)]
        | None
    ) = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    modalities: list[Literal["text", "image"]] | None = None
    guidance: float | None = Field(None, ge=0, le=20)
    """How closely pictures follow what was asked; 1 for none."""
    n: int | None = Field(None, ge=1)
    """Replies. The first is what a request with this seed and without ``n`` gets; the next ones take the next seeds."""
    logprobs: bool | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None


class TokenDetails(Described):
    image_tokens: int


class ChatUsage(Described):
    prompt_tokens: int
    """Visual tokens included."""
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: TokenDetails
    completion_tokens_details: TokenDetails


class AnswerImage(Described):
    type: Literal["image_url"] = "image_url"
    image_url: ImageUrl
    num_tokens: int


class AnswerMask(Described):
    """A region of the conversation's first picture: a PNG of its size, white inside."""

    mask_url: str
    score: float


class AnswerMessage(Described):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    images: list[AnswerImage] | None = None
    masks: list[AnswerMask] | None = None


class Choice(Described):
    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Described):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage


class Delta(Described):
    role: Literal["assistant"] | None = None
    content: str | None = None
    images: list[AnswerImage] | None = None
    masks: list[AnswerMask] | None = None


class ChunkChoice(Described):
    index: int = 0
    delta: Delta
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(Described):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None = None


# ---------------------------------------------------------------- pictures


class ImageRequest(Lenient):
    """OpenAI's ``images/generations``. Pictures come as ``b64_json``, in the model's size."""

    prompt: str = Field(min_length=1, max_length=MAX_TEXT)
    model: str | None = None
    n: int | None = Field(1, ge=1)
    size: str | None = None
    """``auto``, or the model's own."""
    response_format: Literal["b64_json"] | None = None
    seed: Seed | None = None
    """Of the first picture; the next ones take the next numbers."""
    stream: bool | None = False
    """Refused: a picture comes whole."""
    guidance: float | None = Field(None, ge=0, le=20)


class ImageDatum(Described):
    b64_json: str
    seed: int
    """Draws the same picture again."""


class ImageUsage(Described):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: dict[Literal["text_tokens", "image_tokens"], int]


class ImagesAnswer(Described):
    created: int
    data: list[ImageDatum]
    usage: ImageUsage


# ---------------------------------------------------------------- our own


class LookRequest(Described):
    """A picture, and how it is to be clustered."""

    model_config = ConfigDict(extra="forbid")

    image: str
    """A data URL."""
    model: str | None = None
    threshold: float | None = None
    """Of the clustering setting that ``/v1/models`` names; ``null`` as trained."""
    min_tokens: int | None = Field(None, ge=1, le=4096)
    max_tokens: int | None = Field(None, ge=1, le=4096)
    """The most tokens there may be."""


class TokenizeRequest(LookRequest):
    vectors: bool = False
    """Also give the tokens themselves."""


class TokensAnswer(Described):
    model: str
    count: int
    grid: tuple[int, int]
    """Rows and columns of patches."""
    assignment: list[list[int]]
    """The token of every patch, by row."""
    sizes: list[int]
    """Patches of every token."""
    tokens: list[list[float]] | None = None
    image_size: int
    """Side of the square in the middle of the picture that was read, after scaling."""


class ReconstructAnswer(TokensAnswer):
    b64_json: str
    """PNG."""


class SegmentRequest(Lenient):
    image: str
    expression: str = Field(min_length=1, max_length=2000)
    model: str | None = None


class SegmentAnswer(Described):
    model: str
    b64_json: str
    """A PNG of the picture's size, white inside the region."""
    height: int
    width: int
    area: int
    """Pixels inside."""
    box: tuple[int, int, int, int] | None
    """Left, top, right, bottom in pixels, the last two exclusive; ``null`` of an empty region."""
    score: float


# ---------------------------------------------------------------- about


class SetokDetails(Described):
    """What only models like ours have."""

    image_size: int
    """Side of the square that is read and drawn, in pixels."""
    method: str
    """Of clustering."""
    min_tokens: int
    max_tokens: int
    """Of a picture."""
    threshold: str | None
    """The clustering setting that ``threshold`` of a request stands for."""
    threshold_value: float | None
    threshold_range: tuple[float, float] | None
    talks: bool
    """Whether it has language, and not pictures alone."""
    points: bool
    """Whether it finds regions."""


class ModelAnswer(Described):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "setok"
    setok: SetokDetails


class ModelsAnswer(Described):
    object: Literal["list"] = "list"
    data: list[ModelAnswer]


class StatusAnswer(Described):
    status: Literal["ok", "ready"]


class ErrorDetail(Described):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(Described):
    """OpenAI's."""

    error: ErrorDetail


def unsupported_fields(request: ChatRequest) -> list[str]:
    """Fields of a request that ask for what there is not."""
    wanted = {
        "logprobs": bool(request.logprobs),
        "tools": bool(request.tools),
        "functions": bool(request.functions),
        "response_format": (request.response_format or {}).get("type", "text") != "text",
    }
    return [name for name, asked in wanted.items() if asked]
