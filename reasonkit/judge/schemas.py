"""Our own API's requests and answers, as OpenAPI shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from reasonkit.errors import UsageError
from reasonkit.records import Record, Status, Verdict, from_row, messages
from reasonkit.verifiers.routing import VERIFIERS, verifier_name

MOST_ITEMS = 20_000


class _Given(BaseModel):
    """What a client sends, of exactly these types: `"5"` is no number, and a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


class MessageIn(_Given):
    role: str
    content: str


class RecordIn(_Given):
    """A problem, by the names that reasonkit uses."""

    source: str = Field(
        "", description="The data source, which routes to a verifier.", examples=["openai/gsm8k"]
    )
    answer: Any = Field(description="The gold answer, in the shape that the verifier reads.", examples=["72"])
    verifier: str | None = Field(None, description="A verifier's name, instead of the source's.")
    prompt: list[MessageIn] = []
    uid: str = ""
    metadata: dict[str, Any] = {}


class RewardModelIn(BaseModel):
    model_config = ConfigDict(strict=True)

    ground_truth: str = Field(description="The gold answer as JSON text.")


class RowIn(BaseModel):
    """A problem as it stands in a record file, which verl reads too; other columns are left alone."""

    model_config = ConfigDict(strict=True)

    data_source: str
    reward_model: RewardModelIn
    prompt: list[MessageIn] = []
    uid: str = ""
    ability: str = ""
    extra_info: str = "{}"


class Question(_Given):
    """A problem and the reply to judge."""

    record: RecordIn | RowIn
    response: str = Field(description="The model's reply alone, without the prompt.", examples=["so #### 72"])


class Batch(_Given):
    items: list[Any] = Field(
        max_length=MOST_ITEMS,
        description="Each as the body of /v1/verify, checked one by one; what cannot be used is an `error`.",
        examples=[[{"record": {"source": "openai/gsm8k", "answer": "72"}, "response": "so #### 72"}]],
    )


class Judgement(BaseModel):
    """A verdict. `score` is null where `status` is `error`: the infrastructure failed, and nothing was judged."""

    uid: str
    status: Status
    score: float | None = Field(ge=0, le=1)
    answer: str | None = Field(description="The answer found in the reply.")
    reason: str
    details: dict[str, Any]


class Problem(BaseModel):
    detail: str | list[dict[str, Any]]


_QUESTION: TypeAdapter[Question] = TypeAdapter(Question)


def parse_question(item: Any) -> tuple[Record, str]:
    """UsageError says what is wrong with an item of a batch."""
    try:
        question = _QUESTION.validate_python(item)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise UsageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return record_of(question), question.response


def record_of(question: Question) -> Record:
    """The record, if it names a verifier that the server offers."""
    given = question.record
    if isinstance(given, RowIn):
        record = _from_row(given)
    else:
        prompt = messages([message.model_dump() for message in given.prompt])
        record = Record(given.uid, given.source, prompt, given.answer, given.verifier, given.metadata)
    name = verifier_name(record)
    if name not in VERIFIERS:  # above all no module:function, which would import and call what a client names
        raise UsageError(f"'{name[:80]}' is no verifier of this server")
    return record


def _from_row(row: RowIn) -> Record:
    try:
        return from_row(row.model_dump())
    except (ValueError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"ground_truth and extra_info must be JSON texts, the latter of an object: {error}"
        ) from None


def judgement(record: Record, verdict: Verdict) -> dict[str, Any]:
    return {
        "uid": record.uid,
        "status": verdict.status.value,
        "score": None if verdict.status.is_failure else verdict.score,
        "answer": verdict.answer,
        "reason": verdict.reason,
        "details": verdict.details,
    }


def refusal(reason: str) -> dict[str, Any]:
    """The line of a batch for an item that cannot be judged."""
    return {
        "uid": "",
        "status": Status.ERROR.value,
        "score": None,
        "answer": None,
        "reason": reason,
        "details": {},
    }


def encode(value: Mapping[str, Any]) -> bytes:
    """JSON that is JSON whatever a verifier put into its details, and whatever half a character a text holds."""
    try:
        return to_json(value, inf_nan_mode="null", serialize_unknown=True)
    except PydanticSerializationError:  # of lone surrogates, which JSON can only escape
        return json.dumps(value, default=str).encode()
