"""Handlers that answer batches of forms, or steps of a continuous batch.

One call of the handler for all requests of one kind. No wire and no process is known here.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from salver.backends.protocol import Answer
from salver.dialects.torchserve.backend.answering import (
    PieceSocket,
    begin,
    failure_replies,
    finish,
    group_by_kind,
)
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

_LOST = HandlerReply(b"Prediction failed", 503, is_error=True)  # a step of an unknown request
_TENSORS = HandlerReply(b"This model takes a body, or parts of a form, and no tensors", 400, is_error=True)


class HandlerModel:
    """A handler that is called with a batch and returns its answers.

    Args:
        is_decoded: Whether parts are decoded by their content types.
        is_continuous: Whether a run is a step (:class:`~salver.backends.protocol.FormModel`).
    """

    signature = SIGNATURE

    def __init__(self, handler: Handler, is_decoded: bool, is_continuous: bool) -> None:
        self._handler = handler
        self._is_decoded = is_decoded
        self._is_continuous = is_continuous
        self._going: dict[str, Form] = {}  # requests of the next step

    def __repr__(self) -> str:
        return f"<HandlerModel {self._handler.context.model_name}>"

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`; inputs become parts of a form."""
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
            if is_form(request):
                asked.append((id, form_of(request)))
                continue
            # A request without a form continues one of the step before.
            form = before.get(id)
            if form is None:
                replies[id] = _TENSORS if request.inputs else _LOST
            asked.append((id, form or Form()))
        places = {id: index for index, (id, _) in enumerate(asked)}

        def take(pieces: Replies) -> None:
            for id, reply in pieces:
                if id in places:
                    send(places[id], Answer(*as_answer(reply)))

        for run in group_by_kind(asked):
            if each := [one for one in run if one[0] not in replies]:
                replies.update(self._run(each, take))
        metrics = self._handler.take_metrics()
        answers = []
        for id, form in asked:
            reply = replies[id]
            again = self._is_continuous and not reply.is_error and reply.headers.get(NEXT) == "true"
            if again:
                # The memory of a new request is overwritten by the next run.
                self._going[id] = form if before.get(id) is form else _copy(form)
            if metrics:  # lines of the whole run travel with its first answer
                reply, metrics = replace(reply, metrics=metrics), ()
            answers.append(Answer(*as_answer(reply), again=again))
        return answers

    def _run(self, asked: list[tuple[str, Form]], take: Callable[[Replies], None]) -> Replies:
        context, pieces = self._handler.context, PieceSocket(take)
        run = begin(context, asked, self._is_decoded, pieces)
        try:
            result = self._handler.entry(run.data, context)
        except BaseException as error:
            return failure_replies(error, run.ids)
        finally:
            pieces.close()
        return finish(context, run, result)

    def on_idle(self) -> None:
        """See :class:`~salver.backends.protocol.IdleAwareModel`."""
        give_back()

    def close(self) -> None:
        """Forget unfinished requests; TorchServe's handlers have no method for the end."""
        self._going.clear()


def _copy(form: Form) -> Form:
    return replace(form, parts=tuple([replace(part, data=part.data.copy()) for part in form.parts]))
