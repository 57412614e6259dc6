"""A training step recorded once as a CUDA graph and replayed: small kernels end before Python can launch the next."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # calls before the one recorded: libraries choose and allocate in them what a graph must find


class Replayed:
    """Call `work` on tensors that keep their shapes; from the call after WARM_UP on, launch all its kernels at once.

    work: takes tensors on a GPU and gives one tensor. It may change tensors that live elsewhere, but must read whatever
    numbers change from call to call from tensors, and must not wait for the GPU. Every call does all of the work once:
    results are those of `work` alone. Raises RuntimeError, from torch, where `work` cannot be recorded.
    """

    def __init__(self, work: Callable[..., Tensor]):
        self.work, self.calls = work, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *arguments: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= WARM_UP:
            return self.call_aside(arguments)
        if self.graph is None:
            self.arguments = [argument.clone() for argument in arguments]
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # records, but does nothing
                self.result = self.work(*self.arguments)
        for own, new in zip(self.arguments, arguments, strict=True):
            own.copy_(new)
        self.graph.replay()
        return self.result.clone()

    def call_aside(self, arguments: tuple[Tensor, ...]) -> Tensor:
        """Call `work` on a stream of its own, as what is to be recorded must have been."""
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            result = self.work(*arguments)
        torch.cuda.current_stream().wait_stream(aside)
        return result
