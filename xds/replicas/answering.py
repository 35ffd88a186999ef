"""Answers the other replicas' questions, for this replica alone."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError

from xds._generated import replicas_pb2 as pb
from xds.protocol.errors import StreamRefusedError
from xds.replicas.questions import ANSWER_BYTES_MAX, QUERY_BYTES_MAX, Question
from xds.version import __version__

Answer = Callable[[Any], Awaitable[Any]]


class Answering:
    """The questions that are answered, each by a function of its query."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._answers: dict[str, tuple[Question[Any, Any], Answer]] = {}

    def add(self, kind: Question[Any, Any], answer: Answer) -> None:
        """Have a kind of question answered."""
        self._answers[kind.name] = kind, answer

    async def __call__(self, asked: pb.Question) -> pb.Answer:
        """Answer a question; an answer that can't be given says why."""
        told = pb.Answer(instance=self._instance, version=__version__)
        if asked.instance != self._instance:
            told.problem = "another replica was asked"
            return told
        known = self._answers.get(asked.what)
        if known is None:
            told.problem = f"its version, {__version__}, does not know the question {asked.what[:100]!r}"
            return told
        kind, answer = known
        try:
            if len(asked.query) > QUERY_BYTES_MAX:
                told.problem = f"the question has more than {QUERY_BYTES_MAX:,} bytes"
                return told
            query = kind.query.validate_json(asked.query)
        except ValidationError as error:
            told.problem = f"its version, {__version__}, can't read the question: {_first(error)}"
            return told
        try:
            found = await asyncio.to_thread(kind.answer.dump_json, await answer(query))
        except StreamRefusedError as error:
            told.problem = str(error)
            return told
        if len(found) > ANSWER_BYTES_MAX:
            told.problem = f"its answer has more than {ANSWER_BYTES_MAX:,} bytes"
        else:
            told.found = found
        return told


def _first(error: ValidationError) -> str:
    """Return the first of the problems, without what was given."""
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
