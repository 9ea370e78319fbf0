"""Replies of handlers, as read from responses, with their errors and limits.

The same for REST and gRPC. Pure.
"""

from salver.words.errors import HandlerFailed
from salver.words.handlers import HandlerReply, reply_of
from salver.words.messages import InferResponse


def read_reply(response: InferResponse, most: int = 0) -> HandlerReply:
    """Return the reply, or piece of one, that a response carries.

    Args:
        most: Maximum bytes (``max_response_size``); 0 = no limit.

    Raises:
        SalverError: the handler failed, or its reply is over the limit.
    """
    if response.error is not None:
        raise response.error
    body = None
    if response.outputs:
        body = response.outputs[0].array
    reply = reply_of(body, response.parameters)
    if reply.is_error:
        raise HandlerFailed(reply.body.decode("utf-8", "replace"), reply.status)
    return check_size(reply, most)


def check_size(reply: HandlerReply, most: int) -> HandlerReply:
    """Return the reply unchanged. Raises HandlerFailed if it has more than ``most`` bytes; 0 = no limit."""
    if most and len(reply.body) > most:
        raise HandlerFailed(f"the answer has {len(reply.body)} bytes, and max_response_size is {most}", 500)
    return reply
