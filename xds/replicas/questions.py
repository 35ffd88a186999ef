"""What replicas ask each other: names, and the JSON of questions and answers."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

Q = TypeVar("Q")
A = TypeVar("A")
ANSWER_BYTES_MAX = 16 * 1024 * 1024
"""The largest answer of a replica; a larger one counts as none."""
QUERY_BYTES_MAX = 1024 * 1024
"""The largest question that is answered."""


@dataclass(frozen=True, slots=True)
class Question(Generic[Q, A]):
    """A kind of question: its name, and how the query and the answer are written as JSON and checked when read."""

    name: str
    query: TypeAdapter[Q]
    answer: TypeAdapter[A]


def question(name: str, query: Any, answer: Any) -> Question[Any, Any]:
    """Return a kind of question, by the types of its query and its answer."""
    return Question(name, TypeAdapter(query), TypeAdapter(answer))
