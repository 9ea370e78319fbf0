"""Segments that are cut, removed, made again and scribbled on while in use: errors, and never a crash."""

import os
import random
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S

from salver.testing.process import TritonProcess

SIZE, HALF = 16_384, 8192
ROUNDS = 600


class Segment:
    """A file in /dev/shm under the control of nobody."""

    def __init__(self) -> None:
        self.key = f"/salver_torture_{uuid.uuid4().hex[:10]}"
        self.path = Path("/dev/shm") / self.key[1:]
        self.make()

    def make(self) -> None:
        self.path.write_bytes(bytes(SIZE))

    def cut(self, chance: random.Random) -> None:
        if self.path.exists():
            os.truncate(self.path, chance.choice([0, 1, 63, 4095, 4096, HALF + 1, SIZE]))

    def scribble(self, chance: random.Random) -> None:
        """Lengths of texts that lie, and everything else."""
        if self.path.exists():
            size = self.path.stat().st_size
            words = [0, 1, 0xFFFFFFFF, 0x7FFFFFFF, chance.getrandbits(32)]
            content = np.array([chance.choice(words) for _ in range(size // 4)], "<u4").tobytes()
            with self.path.open("r+b") as file:
                file.write(content)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


@pytest.fixture
def segments() -> Iterator[list[Segment]]:
    made = [Segment() for _ in range(3)]
    yield made
    for segment in made:
        segment.remove()


def torment(client: Any, segments: list[Segment], seed: int, stop: threading.Event) -> None:
    """What owners of segments may do, and must not."""
    chance = random.Random(seed)
    while not stop.is_set():
        segment = chance.choice(segments)
        name = f"r{segments.index(segment)}"
        try:
            match chance.randrange(7):
                case 0:
                    segment.cut(chance)
                case 1:
                    segment.scribble(chance)
                case 2:
                    segment.remove()
                case 3 | 4:
                    segment.make()
                case 5:
                    client.unregister_system_shared_memory(name)
                case _:
                    client.unregister_system_shared_memory(name)
                    client.register_system_shared_memory(name, segment.key, SIZE)
        except (InferenceServerException, OSError):
            pass


def ask(client: Any, module: Any, chance: random.Random) -> str:
    """One request with places at random, overlapping ones too; how it ended."""
    model, kind, width = chance.choice([("ident_string", "BYTES", 1), ("ident_fp32", "FP32", 4)])
    sizes = [4, 64, 4096, HALF, SIZE, SIZE + 4]
    places = [(f"r{chance.randrange(4)}", chance.choice(sizes)) for _ in range(2)]
    given = module.InferInput("X", [places[0][1] // width], kind)
    given.set_shared_memory(*places[0], chance.choice([0, 4, HALF]))
    wanted = module.InferRequestedOutput("Y")
    wanted.set_shared_memory(*places[1], chance.choice([0, 4, HALF]))
    try:
        client.infer(model, [given], outputs=[wanted])
    except InferenceServerException as error:
        assert error.status() not in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"), error
        assert "incident" not in error.message(), error
        return "refused"
    return "answered"


@pytest.mark.clause("TR-R14", "TR-G4")
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_happens_to_segments_the_server_lives(
    triton: TritonProcess, segments: list[Segment], seed: int
) -> None:
    descriptors = triton.descriptors()
    stop = threading.Event()
    ends: Counter[str] = Counter()
    failures: list[BaseException] = []
    addresses = {tritonclient.http: triton.address, tritonclient.grpc: f"127.0.0.1:{triton.grpc_port}"}
    with tritonclient.grpc.InferenceServerClient(addresses[tritonclient.grpc]) as owner:
        for number, segment in enumerate(segments):
            owner.register_system_shared_memory(f"r{number}", segment.key, SIZE)
        given = tritonclient.grpc.InferInput("X", [16], "FP32")
        given.set_shared_memory("r0", 64)
        wanted = tritonclient.grpc.InferRequestedOutput("Y")
        wanted.set_shared_memory("r1", 64)
        owner.infer("ident_fp32", [given], outputs=[wanted])  # before the storm, all is well

        def asker(module: Any, own: int) -> None:
            chance = random.Random(own)
            try:
                with module.InferenceServerClient(addresses[module]) as client:
                    for _ in range(ROUNDS):
                        ends[ask(client, module, chance)] += 1
            except BaseException as error:
                failures.append(error)

        owning = threading.Thread(target=torment, args=(owner, segments, seed, stop))
        askers = [
            threading.Thread(target=asker, args=(tritonclient.http, seed)),
            threading.Thread(target=asker, args=(tritonclient.grpc, seed + 100)),
        ]
        for thread in (owning, *askers):
            thread.start()
        for thread in askers:
            thread.join(50)
        stop.set()
        owning.join(PATIENCE_S)
        assert not failures
        assert sum(ends.values()) == 2 * ROUNDS and len(ends) == 2, ends  # some of either
        owner.unregister_system_shared_memory()
        assert not owner.get_system_shared_memory_status().regions
        assert owner.is_server_ready()
    held = [target(descriptor) for descriptor in Path(f"/proc/{triton.pid}/fd").iterdir()]
    assert not [link for link in held if "salver_torture" in link]
    assert triton.descriptors() < descriptors + 20


def target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""
