"""What has a handler said to one request, and may its caller have it?

The same by REST and gRPC. It knows neither.

Pure.
"""

from salver.words.errors import HandlerFailed
from salver.words.handlers import HandlerReply, reply_of
from salver.words.messages import InferResponse


def read_reply(response: InferResponse, most: int = 0) -> HandlerReply:
    """The reply that a response carries, or a piece of it.

    Args:
        most: Bytes that it may have (``max_response_size``); 0 = as many as it likes.

    Raises:
        SalverError: that the handler failed; or it has said more than it may.
    """
    if response.error is not None:
        raise response.error
    outputs = response.outputs
    reply = reply_of(outputs[0].array if outputs else None, response.parameters)
    if reply.is_error:
        raise HandlerFailed(reply.body.decode("utf-8", "replace"), reply.status)
    return checked(reply, most)


def checked(reply: HandlerReply, most: int) -> HandlerReply:
    """The same. Raises HandlerFailed: it has more than so many bytes; 0 = it may have any number."""
    if most and len(reply.body) > most:
        raise HandlerFailed(f"the answer has {len(reply.body)} bytes, and max_response_size is {most}", 500)
    return reply
