"""LitServe's continuous batching, of steps that take a law's time, asleep: PORT SLOTS A T0 (seconds)."""

import sys
import time

import litserve
from litserve.loops import ContinuousBatchingLoop
from litserve.loops.continuous_batching_loop import Output
from litserve.utils import LitAPIStatus

port, slots = int(sys.argv[1]), int(sys.argv[2])
a, t0 = float(sys.argv[3]), float(sys.argv[4])


class Law(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.left: dict[str, int] = {}

    def add_request(self, uid: str, request: dict[str, int]) -> None:
        self.left[uid] = request["max_tokens"]

    def has_capacity(self) -> bool:
        return len(self.left) < slots

    def has_active_requests(self) -> bool:
        return bool(self.left)

    def step(self, prev_outputs: list[Output] | None) -> list[Output]:
        going = list(self.left)
        time.sleep(a * len(going) + t0)
        out = []
        for uid in going:
            out.append(Output(uid, "0", LitAPIStatus.OK))
            self.left[uid] -= 1
            if not self.left[uid]:
                del self.left[uid]
                out.append(Output(uid, "", LitAPIStatus.FINISH_STREAMING))
        return out

    def encode_response(self, output):  # unannotated: as in server.py
        return f"data: {output}\n\n"


if __name__ == "__main__":
    api = Law(max_batch_size=slots, stream=True, loop=ContinuousBatchingLoop())
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1", port=port, log_level="warning", generate_client_file=False, num_api_servers=1
    )
