"""The one training loop: schedule, moving average, progress, checkpoint, resume.

Every step's noise is drawn from a seed of its own, so that a run that was killed ends, wherever it
goes on, where it would have ended. On a GPU a step can be captured as one CUDA graph: small layers,
launched singly, leave the GPU waiting.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from codefend.lab.experiments.settings import RunSettings
from codefend.lab.precision import compute_dtype

__all__ = [
    "LoopSettings",
    "Step",
    "StepDataset",
    "begin",
    "captured",
    "default_workers",
    "train_loop",
]

CHECKPOINT_EVERY_S = 120.0
_MOMENTS = ("exp_avg", "exp_avg_sq")
_WARM_UPS = 3

Step = Callable[..., dict[str, Tensor]]


def default_workers() -> int:
    """All cores but the one that trains, and at least one."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


class LoopSettings(RunSettings):
    """How long and how fast to train; equal for every stage."""

    num_steps: int = Field(ge=1)
    """Optimiser steps."""
    learning_rate: float = Field(gt=0)
    """Peak rate, reached after the warm-up, then a cosine down to 2 %."""
    warmup_steps: int = Field(200, ge=1)
    """Steps until the peak rate; no more than a tenth of all where that is asked for."""
    weight_decay: float = 0.05
    """Of matrices and kernels."""
    clip_norm: float = 1.0
    """Longest gradient."""
    ema_decay: float | None = None
    """Decay of the weights' moving average, which is what is kept; none keeps the last."""
    max_minutes: float = math.inf
    """Stop after so many minutes; the rate follows the larger of step and time share."""
    num_workers: int = Field(default_factory=default_workers, ge=0)
    """Processes that make batches; all cores but one unless told."""
    checkpoint_steps: int | None = Field(None, ge=1)
    """Write the checkpoint at multiples of it alone, compact; else by the clock, in full."""
    stop_after: int | None = None
    """End at this step, with the rates of the whole run: a later run goes on from it."""


class StepDataset(Protocol):
    """Gives the batch of one step; the same step always gives the same batch."""

    def __getitem__(self, step: int) -> Any: ...


class _FromStep(Dataset[Any]):
    def __init__(self, batches: StepDataset, first: int, last: int) -> None:
        self._batches, self._first, self._last = batches, first, last

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, index: int) -> Any:
        return self._batches[self._first + index]


def begin(seed: int, *, shapes_repeat: bool = True) -> tuple[torch.device, torch.dtype]:
    """Seeds everything that a training draws; gives its device, and what it multiplies in.

    Args:
        seed: of the training.
        shapes_repeat: Whether few shapes come again and again. A GPU then tries every algorithm
            for each of them first, which takes a minute where shapes are many.
    """
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = shapes_repeat
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return device, compute_dtype(device)


def train_loop(
    module: nn.Module,
    batches: StepDataset,
    loss_of: Callable[[Any], tuple[Tensor, dict[str, float]]],
    settings: LoopSettings,
    *,
    checkpoint: Path,
    label: str,
    seed: int = 0,
) -> None:
    """Train ``module`` in place, resuming from ``checkpoint`` where it exists.

    Args:
        module: Its parameters that require gradients are trained; it ends in eval mode, holding
            the moving average where one was asked for.
        batches: Made in ``settings.num_workers`` processes beside the training.
        settings: How long and how fast.
        loss_of: Gives the loss of a batch and figures for the progress bar; a loss without a graph
            has already left its gradients in the parameters.
        checkpoint: Written every two minutes and at the end or interruption; or, where
            ``checkpoint_steps`` is given, at its multiples alone. What a compact checkpoint rounds
            (the average and the optimiser's moments, to 16 bits) is then rounded in the running
            training too: resuming changes nothing. The figures of the run are beside it, as JSON
            lines.
        label: Name on the progress bar.
        seed: Decides, with the step, all noise that the loss draws.
    """
    state = _State(module, settings, checkpoint)
    state.restore()
    module.train()
    started = time.monotonic() - state.elapsed_s
    loader = _loader(batches, state.step, settings)
    bar = tqdm(total=settings.num_steps, initial=state.step, desc=label, unit="step", mininterval=5)
    saved = time.monotonic()
    try:
        for batch in loader:
            if state.share >= 1 or state.step == settings.stop_after:
                break
            torch.manual_seed(_seed_of(seed, state.step))
            figures = state.advance(batch, loss_of)
            state.elapsed_s = time.monotonic() - started
            bar.update()
            bar.set_postfix(
                {name: f"{value:.4g}" for name, value in figures.items()}, refresh=False
            )
            if settings.checkpoint_steps is not None:
                if state.step % settings.checkpoint_steps == 0:
                    state.save()
            elif time.monotonic() - saved > CHECKPOINT_EVERY_S:
                state.save()
                saved = time.monotonic()
    finally:
        if settings.checkpoint_steps is None:
            state.save()
        bar.close()
    if settings.checkpoint_steps is not None:
        state.save()
    state.finish()


def _seed_of(seed: int, step: int) -> int:
    digest = hashlib.sha256(f"{seed} {step}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


class _State:
    """Everything that a resumed run must find as it was."""

    def __init__(self, module: nn.Module, settings: LoopSettings, checkpoint: Path) -> None:
        self.module, self.settings, self.checkpoint = module, settings, checkpoint
        self.trained = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            _decay_groups(self.trained, settings.weight_decay),
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            fused=self.trained[0].device.type == "cuda",
        )
        self.average = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.step, self.elapsed_s = 0, 0.0
        self.running: dict[str, float] = {}
        self.history: list[dict[str, float]] = []

    @property
    def share(self) -> float:
        """Of the run, how much is done: of its steps or of its time, whichever is more."""
        of_time = self.elapsed_s / (self.settings.max_minutes * 60)
        return max(self.step / self.settings.num_steps, of_time)

    def advance(
        self, batch: Any, loss_of: Callable[[Any], tuple[Tensor, dict[str, float]]]
    ) -> dict[str, float]:
        settings = self.settings
        warmup = min(1.0, (self.step + 1) / settings.warmup_steps)
        rate = settings.learning_rate * warmup * (0.51 + 0.49 * math.cos(math.pi * self.share))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=False)  # a captured step writes where they were
        loss, figures = loss_of(batch)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained, settings.clip_norm)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        for name, value in {"loss": float(loss.detach()), **figures}.items():
            self.running[name] = 0.98 * self.running.get(name, value) + 0.02 * value
        return self.running

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.settings.ema_decay is None:
            return
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        state = self.module.state_dict()
        floating = [name for name, value in state.items() if value.is_floating_point()]
        averages = [self.average[name] for name in floating]
        torch._foreach_lerp_(averages, [state[name] for name in floating], 1 - decay)
        for name in state.keys() - set(floating):
            self.average[name].copy_(state[name])

    def save(self) -> None:
        """Write the checkpoint whole, or leave the last one; then the figures so far."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        self._note()
        state = {
            "module": self.module.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "running": self.running,
            "history": self.history,
        }
        if self.settings.checkpoint_steps is not None:
            self._round()
            state |= self._halves()
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)
        lines = "".join(f"{json.dumps(line)}\n" for line in self.history)
        self.checkpoint.with_suffix(".jsonl").write_text(lines)

    def _note(self) -> None:
        figures = {name: round(value, 6) for name, value in self.running.items()}
        if not self.history or self.history[-1]["step"] != self.step:
            self.history.append({"step": self.step, "elapsed_s": round(self.elapsed_s), **figures})

    @torch.no_grad()
    def _round(self) -> None:
        """Leave nothing in what a checkpoint halves that it could not hold."""
        for value in self.average.values():
            if value.is_floating_point():
                value.copy_(value.half())
        for moments in self.optimizer.state.values():
            for name in _MOMENTS:
                moments[name].copy_(moments[name].bfloat16())

    def _halves(self) -> dict[str, Any]:
        """The average in half precision, and the moments, whose range is larger, in bfloat16."""
        average = {n: v.half() if v.is_floating_point() else v for n, v in self.average.items()}
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {
            number: {n: v.bfloat16() if n in _MOMENTS else v for n, v in moments.items()}
            for number, moments in optimizer["state"].items()
        }
        return {"average": average, "optimizer": optimizer}

    def restore(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.module.load_state_dict(state["module"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.running, self.history = state["running"], state.get("history", [])

    def finish(self) -> None:
        if self.settings.ema_decay is not None:
            self.module.load_state_dict(self.average)
        self.module.eval()


def _decay_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay acts on matrices and kernels, not on biases and norms."""
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _loader(batches: StepDataset, first: int, settings: LoopSettings) -> Iterator[Any]:
    dataset = _FromStep(batches, first, settings.num_steps)
    return iter(
        DataLoader(
            dataset,
            batch_size=None,
            num_workers=settings.num_workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if settings.num_workers else None,
        )
    )


def captured(step: Step, examples: Sequence[Tensor]) -> Step:
    """``step`` as a CUDA graph, captured once and replayed; ``step`` itself where it cannot be.

    Args:
        step: Takes tensors of fixed shapes, gives tensors, and may leave gradients in parameters.
            It draws its noise from the device's default generator and never waits for the device.
        examples: Its arguments, on the device. ``step`` is run on them a few times.

    Returns:
        A function of the same arguments, whose results the next call overwrites.
    """
    if not all(example.is_cuda for example in examples):
        return step
    inputs = [example.clone() for example in examples]
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            step(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            outputs = step(*inputs)
    except RuntimeError as error:
        warnings.warn(f"not captured, hence slower: {error}", stacklevel=2)
        return step

    def replay(*arguments: Tensor) -> dict[str, Tensor]:
        for held, fresh in zip(inputs, arguments, strict=True):
            held.copy_(fresh, non_blocking=True)
        graph.replay()
        return outputs

    return replay
