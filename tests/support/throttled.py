"""ONNX Runtime on a device that throttles: each pass is computed ten times while the file of `STEPS` counts down."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raycompress.deployment.agent.frames import Array
from raycompress.deployment.agent.runtime import Options, Session
from raycompress.deployment.agent.runtimes.onnxruntime import OnnxRuntime

STEPS = "THROTTLED_STEPS"


class Throttled(OnnxRuntime):
    def load(self, folder: Path, options: Options) -> Session:
        return _Throttled(super().load(folder, options), Path(os.environ[STEPS]))


class _Throttled(Session):
    def __init__(self, session: Session, steps: Path) -> None:
        self._session, self._steps = session, steps

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        return self._session.run(inputs)

    def prepared(self, inputs: Sequence[Array]) -> Any:
        return self._session.prepared(inputs)

    def step(self, prepared: Any) -> None:
        left = int(self._steps.read_text())
        for _ in range(10 if left else 1):
            self._session.step(prepared)
        self._steps.write_text(str(max(left - 1, 0)))
