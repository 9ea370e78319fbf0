"""How does a handler answer a batch of forms, or a step of a continuous one?

One call of the handler for all of them, as long as they are of one kind. Knows no wire and no process.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from salver.backends.protocol import Answer
from salver.dialects.torchserve.backend.answering import Pieces, begin, by_kind, failed, finish
from salver.dialects.torchserve.backend.memory import give_back
from salver.dialects.torchserve.backend.opening import Handler
from salver.dialects.torchserve.backend.replies import NEXT, Replies
from salver.words.errors import HandlerFailed
from salver.words.handlers import (
    SIGNATURE,
    Form,
    HandlerReply,
    Part,
    as_answer,
    as_request,
    form_of,
    is_form,
    reply_of,
)
from salver.words.messages import InferRequest
from salver.words.tensor import Array

_LOST = HandlerReply(b"Prediction failed", 503, is_error=True)  # of a step that nobody has begun
_TENSORS = HandlerReply(b"This model takes a body, or parts of a form, and no tensors", 400, is_error=True)


class HandlerModel:
    """A handler that is called with a batch and returns its answers.

    Args:
        is_decoded: Parts reach it by their content types.
        is_continuous: A run is a step (:class:`~salver.backends.protocol.FormModel`).
    """

    signature = SIGNATURE

    def __init__(self, handler: Handler, is_decoded: bool, is_continuous: bool) -> None:
        self._handler = handler
        self._is_decoded = is_decoded
        self._is_continuous = is_continuous
        self._going: dict[str, Form] = {}  # those that take part in the next step

    def __repr__(self) -> str:
        return f"<HandlerModel {self._handler.context.model_name}>"

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`: as a form with these parts."""
        context = self._handler.context
        form = Form(tuple([Part(name, array) for name, array in inputs.items()]))
        (answer,) = self.reply([as_request(context.model_name, form)], lambda index, piece: None)
        reply = reply_of(answer.outputs.get("body"), answer.parameters)
        if reply.is_error:
            raise HandlerFailed(reply.body.decode(), reply.status)
        return answer.outputs

    def reply(
        self, requests: Sequence[InferRequest], send: Callable[[int, Answer], None]
    ) -> Sequence[Answer]:
        """See :class:`~salver.backends.protocol.FormModel`."""
        before, self._going = self._going, {}
        asked: list[tuple[str, Form]] = []
        replies: dict[str, HandlerReply] = {}
        for request in requests:
            id = request.id or str(uuid.uuid4())
            form = form_of(request) if is_form(request) else before.get(id)
            if form is None:
                replies[id] = _LOST if not request.inputs else _TENSORS
            asked.append((id, form or Form()))
        places = {id: index for index, (id, _) in enumerate(asked)}

        def take(pieces: Replies) -> None:
            for id, reply in pieces:
                if id in places:
                    send(places[id], Answer(*as_answer(reply)))

        for run in by_kind(asked):
            if each := [one for one in run if one[0] not in replies]:
                replies.update(self._run(each, take))
        metrics = self._handler.take_metrics()
        answers = []
        for id, form in asked:
            reply = replies[id]
            again = self._is_continuous and not reply.is_error and reply.headers.get(NEXT) == "true"
            if again:
                self._going[id] = form if before.get(id) is form else _kept(form)
            if metrics:
                reply, metrics = replace(reply, metrics=metrics), ()
            answers.append(Answer(*as_answer(reply), again=again))
        return answers

    def _run(self, asked: list[tuple[str, Form]], take: Callable[[Replies], None]) -> Replies:
        context, pieces = self._handler.context, Pieces(take)
        run = begin(context, asked, self._is_decoded, pieces)
        try:
            said = self._handler.entry(run.data, context)
        except BaseException as error:
            return failed(error, run.ids)
        finally:
            pieces.close()
        return finish(context, run, said)

    def on_idle(self) -> None:
        """See :class:`~salver.backends.protocol.IdleAwareModel`."""
        give_back()

    def close(self) -> None:
        """Nothing is called: TorchServe's handlers have no word for it."""
        self._going.clear()


def _kept(form: Form) -> Form:
    """With bytes of its own: those of a request are overwritten by the next run."""
    return replace(form, parts=tuple([replace(part, data=part.data.copy()) for part in form.parts]))
