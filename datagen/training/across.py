"""Several processes that train one model: negatives of all ranks, and one gradient.

Each rank encodes its own samples and reckons the loss of all of them, so that the gradient is that
of one process with the whole batch. Nothing is sent on the way back through the vectors: a rank
keeps what the loss says of its own rows, times the number of ranks, and the gradients of weights
are averaged over ranks after the last batch of a step.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from datagen.errors import DatagenError
from datagen.training.losses import Candidates, Contrast, Losses
from datagen.training.model import Model
from datagen.training.objective import Objective, candidates

#: Elements of gradients that are sent at once.
_BUCKET = 8 << 20
#: How long ranks wait for one another: one of them validates.
PATIENCE = datetime.timedelta(hours=4)


class Ranks:
    """This process among those that train together; one alone where nobody else does."""

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.count = dist.get_world_size() if together else 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.count > 1:
            dist.barrier()

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give all ranks the first one's values."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, 0)

    def average(self, parameters: Iterable[Any]) -> None:
        """Replace gradients by their means over ranks; one that a rank has not is zero there."""
        if self.count == 1:
            return
        bucket: list[Any] = []
        for one in parameters:
            if one.grad is None:
                one.grad = torch.zeros_like(one)
            alike = not bucket or bucket[0].grad.dtype == one.grad.dtype
            if bucket and (not alike or sum(p.numel() for p in bucket) >= _BUCKET):
                self._averaged(bucket)
                bucket = []
            bucket.append(one)
        if bucket:
            self._averaged(bucket)

    def _averaged(self, bucket: list[Any]) -> None:
        flat = torch.cat([one.grad.flatten() for one in bucket])
        dist.all_reduce(flat)
        flat /= self.count
        at = 0
        for one in bucket:
            one.grad.copy_(flat[at : at + one.numel()].view_as(one))
            at += one.numel()

    def rows(self, own: Tensor, fill: int = 0) -> tuple[Tensor, slice]:
        """Rows of all ranks, one rank after another, and where this one's stand.

        own: (n, any) or (n); n, and the width, may differ; ``fill`` stands where a row is short.
        """
        if self.count == 1:
            return own, slice(0, len(own))
        kind, wide = own.dtype, own.ndim > 1
        sent = own.to(torch.uint8) if kind == torch.bool else own
        sent = sent if wide else sent[:, None]
        shape = torch.tensor(sent.shape, device=sent.device)
        shapes = [torch.zeros_like(shape) for _ in range(self.count)]
        dist.all_gather(shapes, shape)
        counts = [int(one[0]) for one in shapes]
        most, width = max(counts), max(int(one[1]) for one in shapes)
        full = sent.new_full((most, width), fill)
        full[: len(sent), : sent.shape[1]] = sent
        parts = [torch.empty_like(full) for _ in range(self.count)]
        dist.all_gather(parts, full)
        out = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
        begin = sum(counts[: self.rank])
        out = (out if wide else out[:, 0]).to(kind)
        return out, slice(begin, begin + len(own))

    def texts(self, own: Sequence[str], device: Any) -> list[str]:
        """The texts of all ranks, one rank after another."""
        if self.count == 1:
            return list(own)
        data = [list(text.encode()) for text in own]
        lengths = torch.tensor([len(one) for one in data], device=device)
        bytes_ = torch.zeros(len(data), max(map(len, data), default=0), dtype=torch.uint8)
        for row, one in zip(bytes_, data, strict=True):
            row[: len(one)] = torch.tensor(one, dtype=torch.uint8)
        every, _ = self.rows(bytes_.to(device))
        sizes = self.rows(lengths)[0].tolist()
        rows = zip(every.tolist(), sizes, strict=True)
        return [bytes(row[:size]).decode() for row, size in rows]


class _Gathered(torch.autograd.Function):  # type: ignore[misc]
    """Vectors of all ranks; the gradient of one's own, times the number of ranks."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        out, ctx.own = ranks.rows(own.detach())
        ctx.count = ranks.count
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.own] * ctx.count, None


class AcrossRanks(Objective):
    """An objective whose queries are compared with the candidates of all ranks."""

    def __init__(self, model: Model, contrast: Contrast, ranks: Ranks) -> None:
        super().__init__(model, contrast)
        self.ranks = ranks

    def _lost(
        self,
        batch: Mapping[str, Any],
        queries: Tensor,
        media: Tensor,
        captions: Tensor | None,
        captioned: Tensor,
        weights: Tensor | None,
    ) -> Losses:
        if self.ranks.count == 1:
            return super()._lost(batch, queries, media, captions, captioned, weights)
        given = candidates(batch, media)
        vectors = self._vectors(given.vectors.float())
        ids, place = self.ranks.rows(given.ids)

        def numbered(own: Tensor) -> Tensor:
            return self.ranks.rows(torch.where(own < 0, own, own + place.start), -1)[0]

        whole = Candidates(
            vectors,
            ids,
            numbered(given.targets),
            numbered(given.references),
            numbered(given.negatives),
            self.ranks.rows(given.right)[0],
        )
        if weights is not None:
            weights = self.ranks.rows(weights.to(queries.device))[0]
        if self.contrast.settings.caption:
            own = torch.zeros_like(queries) if captions is None else captions
            captions = self._vectors(own.float())
            captioned = self.ranks.rows(captioned)[0]
        mine = self.ranks.rows(torch.arange(len(queries), device=queries.device))[1]
        found: Losses = self.contrast(
            self._vectors(queries.float()), whole, weights, captions, captioned
        )
        return Losses(found.total, found.each[mine], found.parts)

    def _vectors(self, own: Tensor) -> Tensor:
        out: Tensor = _Gathered.apply(own, self.ranks)
        return out


@contextlib.contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The processes that torchrun (or another launcher that tells RANK and WORLD_SIZE) started,
    for the length of a block; one alone otherwise. Raises DatagenError.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Ranks()
        return
    backend = "nccl" if device.startswith("cuda") else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise DatagenError(f"the processes of this training cannot meet: {first}") from error
    try:
        yield Ranks()
    finally:
        dist.destroy_process_group()
