"""What vLLM's worker processes import of ours, because engines name `Extension` as their extension.

Three things happen by importing it. The shared-memory backend is known to the worker. A thread waits for the end of
the process that started the engine: however that dies, its engine goes too, instead of keeping a GPU's memory. And
on a CPU nothing is compiled: vLLM compiles a part of its sampler even when told to be eager, for half a minute.
"""

from __future__ import annotations

import os
import select
import signal
import threading

import torch  # noqa: TID253
from vllm.platforms import current_platform  # noqa: TID253

from reasonkit.engines import vllm_shm
from reasonkit.engines.vllm_start import CONTROLLER


class Extension:
    """Adds nothing to vLLM's worker."""

    backend = vllm_shm.BACKEND


def end_with(controller: int) -> None:
    """Ends vLLM's engine, this worker's parent, and this worker, when the controller has ended."""
    try:
        watched = os.pidfd_open(controller)
        select.select([watched], [], [])
    except ProcessLookupError:
        pass  # it is gone already
    if os.getppid() != controller:
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


threading.Thread(target=end_with, args=(int(os.environ[CONTROLLER]),), name="controller", daemon=True).start()

if current_platform.is_cpu():
    torch.compiler.set_stance("force_eager")
