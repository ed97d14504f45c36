"""A whole training step on a GPU by one launch of the processor.

Batch, augmentation, mixing, network, loss, gradients, clipping, optimiser and moving average are recorded once per
shape of a batch as a CUDA graph and repeated. A step of small networks is a thousand kernels, each of which a GPU ends
sooner than the processor launches the next one. What changes from step to step lies in buffers that are written before
each one: the numbers of rows and what was drawn for them, and learning rates, the weight of the moving average and the
shares of mixing. Where a step cannot be recorded it runs as on the CPU, by the same functions.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from timm.utils import ModelEmaV3
from torch import Tensor

from facefold.data.preprocessing import Shape
from facefold.training.device_batch import DeviceBatch
from facefold.training.mixup import mix_batch
from facefold.training.step import TrainingStep

EAGER_STEPS = 3  # before a step is recorded: they choose kernels and allocate the optimiser's state
AHEAD = 4  # steps that the processor may be ahead: each holds a batch in pinned memory

Run = Callable[[], Tensor]


def steps_on_device(device: torch.device) -> bool:
    """Return whether a fold on `device` is trained by `DeviceStep`."""
    return device.type == "cuda"


@dataclass
class _Shape:
    """The step of batches of one shape: the buffers it reads, how it is repeated, and the steps taken before."""

    buffers: list[Tensor]
    replay: Run | None = None
    steps: int = 0


class CudaGraphs:
    """Records work as CUDA graphs, and lets the processor be `AHEAD` of them."""

    def __init__(self, device: torch.device):
        self._device, self._stream, self._events = device, torch.cuda.Stream(device), deque()

    def run(self, run: Run) -> Tensor:
        """Run once, on the stream on which it will be recorded: not the default one."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = run()
        current.wait_stream(self._stream)
        return result

    def record(self, run: Run) -> Run:
        """Record what `run` does, without doing it; return a function that does it. Raise RuntimeError if it cannot."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()  # the graph has memory of its own
        with torch.cuda.stream(self._stream):
            # Other threads, which read the next batches, may allocate pinned memory meanwhile.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                result = run()
            except BaseException:  # the cause, not that the recording has failed
                with suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    def wait(self) -> None:
        """Wait until the device is at most `AHEAD` steps behind."""
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)
        if len(self._events) > AHEAD:
            self._events.popleft().synchronize()


class DeviceStep:
    """`step(host, image_shape, mix, average)` takes one training step on what the host left of a batch.

    Args:
        step: The optimiser step on a batch.
        batch: Makes the batch on the device.
        ema: The moving average of the weights, None without one.
        graphs: Records and repeats.
        report: Gets a line where a step cannot be recorded.
    """

    def __init__(
        self,
        step: TrainingStep,
        batch: DeviceBatch,
        ema: ModelEmaV3 | None,
        graphs: CudaGraphs,
        report: Callable[[str], None] = print,
    ):
        self._step, self._batch, self._graphs, self._report = step, batch, graphs, report
        self._shape, self._key = _Shape([]), None
        state, averages = step.net.state_dict(), ema.module.state_dict() if ema else {}
        real = [name for name, average in averages.items() if average.is_floating_point()]
        counts = [name for name in averages if name not in real]  # of the batches that batch norms have seen
        self._weights, self._averages = [state[name] for name in real], [averages[name] for name in real]
        self._counts, self._kept_counts = [state[name] for name in counts], [averages[name] for name in counts]
        self._failure = ""

    @property
    def form(self) -> str:
        """How the steps run, for run.json: "CUDA graph", or "eager" and why."""
        return f"eager: {self._failure}" if self._failure else "CUDA graph"

    def __call__(self, host: Sequence[Tensor], image_shape: Shape, mix: Tensor | None, average: float) -> Tensor:
        """Take one step; return its loss (), which the next step overwrites.

        Args:
            host: From `HostDataset`.
            image_shape: Height and width of the images.
            mix: From `draw_mix`; None for a recipe that does not mix.
            average: The weight of the new weights in the moving average, 0..1.
        """
        rates = [group["lr"] for group in self._step.optimizer.param_groups]
        numbers = torch.tensor([*rates, average])
        values = [numbers if mix is None else torch.cat([numbers, mix]), *host]
        shape = self._shape_of(values, image_shape)
        for buffer, value in zip(shape.buffers, values, strict=True):
            buffer.copy_(value.pin_memory() if buffer.is_cuda else value, non_blocking=True)
        if shape.replay is None and shape.steps >= EAGER_STEPS and not self._failure:
            self._record(shape, image_shape)
        shape.steps += 1
        if shape.replay:
            loss = shape.replay()
        else:
            loss = self._graphs.run(lambda: self._run(shape.buffers, image_shape, self._split))
        self._graphs.wait()
        return loss

    def _shape_of(self, values: list[Tensor], image_shape: Shape) -> _Shape:
        """Return the step for batches of this shape; what was recorded for another one is given up with its memory."""
        key = (image_shape, self._step.accumulate, *(value.shape for value in values))
        if key != self._key:
            self._step.optimizer.zero_grad(set_to_none=True)  # gradients lie in the graph's memory
            buffers = [torch.empty_like(value, device=self._batch.device) for value in values]
            self._shape, self._key = _Shape(buffers), key
        return self._shape

    def _record(self, shape: _Shape, image_shape: Shape) -> None:
        try:
            shape.replay = self._graphs.record(lambda: self._run(shape.buffers, image_shape, self._step.update))
        except RuntimeError as error:  # what may not be recorded, or memory for it
            self._failure = (str(error).splitlines() or [type(error).__name__])[0]
            getattr(self._step.scaler, "_per_optimizer_states", {}).clear()  # of the step that was not finished
            self._report(
                f"the training step cannot be recorded as a CUDA graph ({self._failure}); the processor launches each "
                "of its kernels, which is slower"
            )

    def _split(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return self._step(inputs, labels, self._report)

    def _run(self, buffers: list[Tensor], image_shape: Shape, update: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Take the step that the buffers describe, reading nothing back from the device; return the loss ()."""
        numbers, *host = buffers
        groups = len(self._step.optimizer.param_groups)
        rates, weight, mix = numbers[:groups], numbers[groups], numbers[groups + 1 :]
        inputs, labels = self._batch(host, image_shape)
        if len(mix):
            inputs, labels = mix_batch(inputs, labels, mix)
        with self._rates(rates):
            loss = update(inputs, labels)
        self._average(weight)
        return loss

    @contextmanager
    def _rates(self, rates: Tensor) -> Iterator[None]:
        """Let the optimiser read its rates (groups,) from the device; the schedule goes on with numbers."""
        groups = self._step.optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        for group, rate in zip(groups, rates.unbind(), strict=True):
            group["lr"] = rate
        try:
            yield
        finally:
            for group, number in zip(groups, numbers, strict=True):
                group["lr"] = number

    @torch.no_grad()
    def _average(self, weight: Tensor) -> None:
        """Move the averages by `weight` () towards the weights, as `ModelEmaV3.update` does by a number."""
        if self._averages:
            differences = torch._foreach_sub(self._weights, self._averages)
            torch._foreach_mul_(differences, weight)
            torch._foreach_add_(self._averages, differences)
        if self._counts:
            torch._foreach_copy_(self._kept_counts, self._counts)
