"""A model that does as it is told, mostly harm. Each row is one command."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


class Model:
    inputs: ClassVar = {"do": ("BYTES", [-1, 1])}
    outputs: ClassVar = {"done": ("BYTES", [-1, 1])}

    def __init__(self) -> None:
        self.rows = 0
        self.leaked: list[np.ndarray] = []

    def predict(self, inputs: Mapping[str, np.ndarray]) -> Any:
        commands = [value.decode().split(" ", 2) for value in inputs["do"].ravel().tolist()]
        self.rows += len(commands)
        answers = []
        for command, *words in commands:
            if command == "raise":
                raise getattr(__import__("builtins"), words[0])(words[1])
            if command == "no" and words == ["output"]:
                return {}
            if command == "no":
                return 5
            if command == "wrong" and words == ["type"]:
                return {"done": np.zeros((len(commands), 1), np.complex128)}
            answers.append(self.obey(command, words))
        if ["wrong", "rows"] in commands:
            answers *= 2
        return {"done": np.array([[answer] for answer in answers], dtype=object)}

    def obey(self, command: str, words: list[str]) -> bytes:
        if command == "sleep":
            time.sleep(float(words[0]))
        elif command == "hold":
            Path(f"{words[0]}.begun").touch()
            while not Path(words[0]).exists():
                time.sleep(0.002)
        elif command == "exit":
            sys.exit(3)
        elif command == "segfault":
            ctypes.string_at(0)
        elif command == "abort":
            os.abort()
        elif command == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif command == "leak":
            self.leaked.append(np.ones(int(words[0]) << 17))
        elif command == "print":
            for number in range(int(words[0])):
                print("blah", number, "x" * 100)
        elif command == "pid":
            return str(os.getpid()).encode()
        elif command == "count":
            return str(self.rows).encode()
        return b"ok"
