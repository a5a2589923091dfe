"""What the executor asks of one prepared layer, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpuq.ops.spec import Spec


class Plan(Protocol):
    """One layer with its constants packed: launched often, from many threads, with equal results.

    A plan owns nothing that two launches could race on: scratch comes from the caller's workspace.
    """

    @property
    def name(self) -> str:
        """The kernel's name, `<op>_<algorithm>_<unit>`."""
        ...

    @property
    def spec(self) -> Spec: ...

    @property
    def constant_bytes(self) -> int:
        """Bytes of packed weights and tables."""
        ...

    def workspace_bytes(self, runs: int) -> int:
        """Scratch that a launch over this many runs needs."""
        ...

    def launch(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        outputs: Sequence[npt.NDArray[Any]],
        workspace: npt.NDArray[np.uint8],
        stream: object = None,
    ) -> None:
        """Computes outputs from inputs, all (N, *shape of one run); writes nothing else but the workspace."""
        ...
