"""Program of a host process that runs a handler, or forks others that do.

Named by the plans of handlers (:class:`salver.kernel.engine.host.Program`).
"""

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Never

import msgspec

from salver.backends.protocol import Answer, FormModel, IdleAwareModel, RunnableModel
from salver.dialects.torchserve.engine import forms, sharing
from salver.kernel.engine.control import Handle, Load, LoadResult, Reply, Stop
from salver.kernel.engine.host_channel import Channel
from salver.kernel.engine.hosting import asks_of, load_failure, load_model, run_failure, serve
from salver.kernel.engine.shm import Arena
from salver.words.messages import Signature


def run(channel: Channel, load: Load, requests: Arena, responses: Arena) -> int:
    """Load the handler and run it, or fork on order, until told to stop; return the exit status."""
    arenas = requests, responses
    before = sharing.Baseline() if load.forks else None
    if before is not None and load.imports:
        return _fork_imports(channel, load, arenas, before)
    try:
        model = load_model(load, None)
        loaded = LoadResult(model.signature, asks_of(model))
    except BaseException as error:
        channel.send(load_failure(error, load))
        return 1
    if before is not None:
        before.end()
        if alone := sharing.obstacle_to_forking(before):
            imports = sharing.imported_modules(before, load.manifest.path)
            loaded = msgspec.structs.replace(loaded, alone=alone, imports=imports)
    channel.send(loaded)
    if before is not None and loaded.alone:
        sharing.restore_threads(load.variables, load.options.threads)
    elif before is not None:
        if (ends := sharing.fork_on_order(channel.sock, before, load)) is None:
            model.close()
            return 0
        channel, arenas = _own_ends(ends, arenas)
        _run_fork(channel, lambda _: (model, loaded), arenas)
    _serve(channel, model, load, *arenas)
    model.close()
    return 0


def _fork_imports(channel: Channel, load: Load, arenas: tuple[Arena, Arena], before: sharing.Baseline) -> int:
    """Run a host that forks others, which share its imports and load the model themselves."""
    sharing.import_all(load.imports)
    before.end()
    alone = sharing.obstacle_to_forking(before)
    channel.send(LoadResult(Signature((), ()), alone=alone))
    if alone or (ends := sharing.fork_on_order(channel.sock, before, load)) is None:
        return 0
    channel, arenas = _own_ends(ends, arenas)

    def load_now(load: Load) -> tuple[RunnableModel, LoadResult]:
        model = load_model(load, None)
        return model, LoadResult(model.signature, asks_of(model))

    _run_fork(channel, load_now, arenas)


def _run_fork(
    channel: Channel, load: Callable[[Load], tuple[RunnableModel, LoadResult]], arenas: tuple[Arena, Arena]
) -> Never:
    """Run a forked host to its end, without the clean-up at exit, which is its parent's."""
    code = 0
    try:
        order = channel.receive()
        if isinstance(order, Load):
            try:
                model, loaded = load(order)
            except BaseException as error:
                channel.send(load_failure(error, order))
                raise SystemExit(1) from None
            channel.send(loaded)
            _serve(channel, model, order, *arenas)
            model.close()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        traceback.print_exception(error)
        code = 1
    # os._exit() flushes nothing; exit handlers are the parent's.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _own_ends(ends: sharing.ForkEnds, others: tuple[Arena, Arena]) -> tuple[Channel, tuple[Arena, Arena]]:
    """Return a forked host's own channel and arenas, in place of its parent's."""
    for arena in others:
        arena.close()
    for fd in ends:
        os.set_inheritable(fd, False)
    channel = Channel(socket.socket(fileno=ends.control))
    return channel, (Arena(ends.requests), Arena(ends.responses))


def _serve(channel: Channel, model: RunnableModel, load: Load, requests: Arena, responses: Arena) -> None:
    if isinstance(model, FormModel):
        if isinstance(model, IdleAwareModel):
            channel.when_idle(model.on_idle)
        _serve_forms(channel, model, load, requests, responses)
    else:
        serve(channel, model, load, requests, responses, None)


def _serve_forms(channel: Channel, model: FormModel, load: Load, requests: Arena, responses: Arena) -> None:
    """Run a handler on orders until told to stop; it may send pieces of its answers while it runs."""
    id = load.manifest.id

    def send(index: int, answer: Answer) -> None:
        for bit in forms.encode_pieces(index, answer):
            channel.send(bit)

    is_lone = False
    while not isinstance(order := channel.receive(is_lone=is_lone), Stop | Load):
        if not isinstance(order, Handle):
            continue
        is_lone = order.is_lone
        try:
            forms_in = forms.decode_order(order, requests, id)
            began = time.perf_counter()
            answers = model.reply(forms_in, send)
            reply: Reply = forms.encode_result(answers, time.perf_counter() - began, responses)
        except SystemExit:  # the handler ends its worker, which is restarted
            raise
        except BaseException as error:
            reply = run_failure(error, load)
        channel.send(reply)
