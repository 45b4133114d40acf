"""The host in a GPU's place: a captured graph is the function itself, run again on its buffers."""

import torch

from codefend.service.purify.graph_runner import Captured


class HostDevice:
    """Records what is asked of it, and can lack memory.

    Attributes:
        told: What was done, in order.
        working_bytes: What a run allocates; by `needs`, where that is given.
        graph_bytes: What each graph takes.
        fails: Raised by `capture`, or None.
    """

    total_bytes = 1 << 30

    def __init__(self, working_bytes=1 << 20, graph_bytes=1 << 20, fails=None):
        self.told = []
        self.working_bytes = working_bytes
        self.graph_bytes = graph_bytes
        self.fails = fails

    def pinned(self, num_values, dtype):
        return torch.zeros(num_values, dtype=dtype)

    def warm_up(self, run):
        self.told.append("warm up")
        run()
        return self.working_bytes

    def capture(self, run):
        self.told.append("capture")
        if self.fails is not None:
            raise self.fails

        def replay():
            self.told.append("replay")
            run()

        return Captured(replay, self.graph_bytes)

    def release(self):
        self.told.append("release")

    def upload(self, target, source):
        self.told.append("upload")
        target.copy_(source)

    def join(self):
        self.told.append("join")

    def download(self, *copies):
        self.told.append("download")
        for target, source in copies:
            target.copy_(source)
