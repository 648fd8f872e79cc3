"""A guidance of its own for each picture of a batch, where a pipeline of diffusers takes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class EachGuidance(float):
    """Stands for the pipeline's ``guidance_scale``: of a batch each picture its own.

    To the pipeline itself, which asks whether to guide at all, it is ``most``, the end of the range
    that they are drawn from: so the answer is the same whatever stands in a batch.
    Classifier-free guidance is ``without + scale * (with - without)``, and the product with a
    batch (B, …) multiplies each of its B entries by its own scale. A scale below 1 counts as 1,
    which is no guidance. Of no use where the UNet itself is told the scale
    (``time_cond_proj_dim``): such a pipeline paints pictures of one scale together.
    """

    each: tuple[float, ...]

    def __new__(cls, each: Sequence[float], most: float | None = None) -> EachGuidance:
        made = super().__new__(cls, max(each) if most is None else most)
        made.each = tuple(max(1.0, float(one)) for one in each)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return EachGuidance, (self.each, float(self))

    def __mul__(self, difference: Any) -> Any:
        import torch

        if not isinstance(difference, torch.Tensor):
            return float(self) * difference
        # In full precision, as torch multiplies a tensor by a number.
        scales = torch.tensor(self.each, device=difference.device, dtype=torch.float32)
        product = scales.view(-1, *[1] * (difference.ndim - 1)) * difference
        return product.to(difference.dtype)

    __rmul__ = __mul__
