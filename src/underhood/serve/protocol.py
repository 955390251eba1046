"""What may be asked, field by field: OpenAI's completions and chat, every number with its bounds, and no field that is not listed.

A field that would change the answer and is not supported is refused. Those in ``Ignored`` change nothing that a client could see in an answer.
Checking stops at a list's first fault and at the first unknown field, so that what is said of a wrong request does not grow with it.
"""

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from underhood.infer.generation import MOST_CHOICES, MOST_LOGPROBS

MOST_STOPS, LONGEST_STOP = 4, 256
MOST_MESSAGES, MOST_PROMPTS, MOST_BIASES = 2048, 128, 1024
MOST_OPTIONS, LONGEST_OPTION = 16, 1024
LARGEST_SEED = 2**63 - 1
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Name = Annotated[str, Field(max_length=256)]
Option = bool | int | float | Annotated[str, Field(max_length=LONGEST_OPTION)]


def at_most(most: int) -> BeforeValidator:
    """Refuse a mapping with more keys before each of them is looked at."""

    def counted(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > most:
            raise PydanticCustomError("too_long", "has {found} keys, and at most {most} are allowed", {"found": len(value), "most": most})
        return value

    return BeforeValidator(counted)


class Strict(BaseModel):
    """No unknown field, no conversion from one type to another, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keep_one_unknown(cls, value: Any) -> Any:
        """Of the fields that there are not, the first is complained of."""
        if not isinstance(value, dict):
            return value
        known = {field.alias or name for name, field in cls.model_fields.items()}
        unknown = [name for name in value if name not in known]
        return {name: inner for name, inner in value.items() if name in known or name == unknown[0]} if unknown else value


class Ignored(Strict):
    """Accepted and without effect: they concern accounts, storage and speed elsewhere."""

    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None


class StreamOptions(Strict):
    """What a stream holds besides."""

    include_usage: bool = False
    include_obfuscation: Any = None


class Sampling(Ignored):
    """What both ways of asking have in common. ``top_k``, ``min_p`` and ``repetition_penalty`` are additions to OpenAI's fields."""

    model: Name
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=1, lt=2**31)
    min_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    max_tokens: int | None = Field(None, ge=0, lt=2**31)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-LARGEST_SEED - 1, le=LARGEST_SEED)
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS, fail_fast=True)] | None = None
    logit_bias: Annotated[dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Bias] | None, Field(max_length=MOST_BIASES), at_most(MOST_BIASES)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Name | None = None  # whoever is named waits in the line of the address that asks

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, however they were written."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(Sampling):
    """``/v1/completions``: text or tokens to be continued."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
    )
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    best_of: Literal[1] | None = None
    suffix: None = None  # a decoder cannot see what comes after

    @property
    def prompts(self) -> list[str | list[int]]:
        """One prompt or several, as a list."""
        found = self.prompt
        if isinstance(found, str) or isinstance(found[0], int):
            return [found]
        return cast(list[str | list[int]], found)


class TextPart(Strict):
    """A piece of a message; other kinds than text are refused."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """One turn. Roles of tools are not supported yet; the fields that an answer of ours holds may come back."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=256, fail_fast=True)]
    name: Annotated[str, Field(max_length=64)] | None = None
    refusal: None = None
    audio: None = None
    tool_calls: None = None
    function_call: None = None
    annotations: Any = None

    @property
    def text(self) -> str:
        """What it says."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class SchemaOfAnswer(Strict):
    """The JSON schema that an answer must satisfy. It is always kept to, whatever ``strict`` says."""

    name: Annotated[str, Field(max_length=64)]
    description: Annotated[str, Field(max_length=4096)] | None = None
    schema_: Any = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """Free text, any JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaOfAnswer | None = None


class ChatRequest(Sampling):
    """``/v1/chat/completions``: a conversation to be answered. ``chat_template_kwargs`` is vLLM's addition: what the model's template knows besides."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    response_format: ResponseFormat | None = None
    chat_template_kwargs: Annotated[dict[Annotated[str, Field(max_length=64)], Option] | None, Field(max_length=MOST_OPTIONS), at_most(MOST_OPTIONS)] = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None


class EmbeddingRequest(BaseModel):
    """``/v1/embeddings``: whatever is asked, a decoder has none."""


class AttentionRequest(Strict):
    """``/v1/underhood/attention``: where each head of one layer looks in a short text."""

    model: Name
    text: str = Field(min_length=1, max_length=20_000)
    layer: int = Field(0, ge=0, lt=2**31)
