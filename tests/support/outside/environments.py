"""The environments that the Makefile builds beside `.venv`, of what cannot be installed together.

What runs in one of them imports no pytest: none has it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Environment:
    """A folder at the top of the project, with a Python of its own.

    Attributes
    ----------
    name
        Of the folder.
    made_by
        The command that builds it.
    variable
        Of the process's environment: names the Python of another one to be used in its place; empty where none does.
    """

    name: str
    made_by: str
    variable: str = ""

    @property
    def python(self) -> str:
        """The path of its Python, whether it is there or not."""
        return os.environ.get(self.variable) or str(_ROOT / self.name / "bin" / "python")

    @property
    def is_there(self) -> bool:
        """Whether it is there; one whose installation was broken off does not count."""
        if os.environ.get(self.variable):
            return Path(self.python).exists()
        return (_ROOT / self.name / ".installed").exists()

    @property
    def missing(self) -> str:
        """What to say of something that is left out without it."""
        another = f", or {self.variable} names its Python" if self.variable else ""
        return f"no {self.name}: `{self.made_by}` builds it{another}"


ZOO = Environment(".venv-zoo", "make zoo-dozen")
"""Networks of other libraries, with the versions of torch that these need."""
TARGETS = Environment(".venv-targets", "make targets", "RAYCOMPRESS_TARGETS_PYTHON")
"""Inference runtimes whose requirements conflict with those of the other environments."""
PEERS = Environment(".venv-peers", "make peers")
"""Pruners that are compared with ours."""
