"""The training of a retriever, from runs to a folder that answers.

One function for a laptop, several GPUs and several machines. A training that was killed goes on
from its last checkpoint by the same call, and learns what it would have learned: the order of
samples is decided beforehand, and the random numbers of a step follow from the seed and the step.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from datagen import models, store
from datagen.errors import DatagenError
from datagen.evaluation.measure import COMPOSED
from datagen.lock import locked
from datagen.training import beginning, checkpoints, folders, hooks, logs, optimizing, validating
from datagen.training.across import AcrossRanks, Ranks, joined
from datagen.training.batch import Batch
from datagen.training.left_out import LeftOut, counts, lines
from datagen.training.loader import Loader
from datagen.training.loader_settings import Source
from datagen.training.losses import Contrast
from datagen.training.retriever import RETRIEVER
from datagen.training.settings import TrainSettings

#: What a training says of itself.
NOTE = "training.json"

#: Called by the first rank with the step, of how many, and its figures.
Say = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Trained:
    """A training that is done.

    out: the folder; steps: of it; figures: of the exported weights on what was validated on, by
    what was asked with; notes: what was not as it should be; before: it was done already.
    """

    out: str
    steps: int
    figures: dict[str, dict[str, float]]
    notes: tuple[str, ...] = ()
    before: bool = False


def train(
    sources: Sequence[str | Source],
    out: str,
    settings: TrainSettings,
    say: Say = lambda step, steps, values: None,
) -> Trained:
    """Train a retriever on the runs ``sources``, and write it into the folder ``out``.

    A training that was stopped goes on; one that is done is left as it is. Raises DatagenError.
    """
    if not store.is_local(out):
        raise DatagenError(f"--out {out}: a folder of this machine expected, or one that it mounts")
    out, listed = store.local_path(out), beginning.listed(sources, settings)
    device = models.device(settings.device)
    with joined(device) as ranks:
        if device == "cuda":
            device = f"cuda:{torch.cuda.current_device()}"
        if ranks.first:
            store.make_folder(out)
        ranks.wait()
        with locked(out) if ranks.first else contextlib.nullcontext():
            done = finished(out, settings, listed)
            ranks.wait()
            if done is not None:
                return done
            return Training(listed, out, settings, device, ranks, say).run()


def finished(out: str, settings: TrainSettings, sources: Sequence[Source]) -> Trained | None:
    """The training that ended in ``out``; None where it has still to be done. Raises DatagenError
    where another one began there.
    """
    path = os.path.join(out, NOTE)
    if not os.path.exists(path):
        if os.path.exists(os.path.join(out, RETRIEVER)):
            raise DatagenError(f"{out}: holds a retriever of elsewhere; choose another folder")
        return None
    note = store.read_json(path)
    now = {**settings.learned(), "sources": [asdict(one) for one in sources]}
    before = {**note["settings"], "sources": note["sources"]}
    other = sorted(key for key in now | before if now.get(key) != before.get(key))
    if other:
        raise DatagenError(
            f"{out}: a training with another {' and '.join(other)} began here; choose another "
            "folder, or give the settings that it has"
        )
    if note["status"] != "finished":
        return None
    return Trained(out, note["steps"], note["figures"], tuple(note["notes"]), before=True)


class Training:
    """One training, in one of the processes that do it together."""

    def __init__(
        self,
        sources: Sequence[Source],
        out: str,
        settings: TrainSettings,
        device: str,
        ranks: Ranks,
        say: Say,
    ) -> None:
        self.sources, self.out, self.settings, self.say = sources, out, settings, say
        self.ranks, self.device = ranks, device
        logs.check(settings.logs)
        beginning.together(settings, ranks)
        torch.manual_seed(settings.seed)
        self.model = beginning.model(settings, device)
        self.objective = AcrossRanks(self.model, Contrast(settings.loss).to(device), ranks)
        self.weights = optimizing.trained(self.objective)
        ranks.share(self.weights.values())
        self.loader = Loader(
            sources, self.model.towers.geometry, settings.loader, rank=ranks.rank, ranks=ranks.count
        )
        batches = settings.epochs * len(self.loader)
        self.steps = settings.steps or max(1, batches // settings.accumulate)
        self.optimizer = optimizing.optimizer(self.weights, settings)
        self.mean = optimizing.Mean(self.weights, settings.ema)
        self._autocast = beginning.precision(settings, device) == "bf16"
        parts = (settings, sources, self.model, self.loader, ranks, self._cast)
        self.hooks = hooks.made(hooks.Parts(*parts))
        self.validation = None
        self.notes = [*beginning.other_composer(settings, self.model), *self.loader.notes]
        if ranks.first:
            choice = settings.loader.frames
            self.validation, lines = validating.chosen(sources, settings.validation, choice)
            self.notes += lines
        self.left_out = LeftOut(self.loader, ranks, device)
        self.step, self.best = 0, -1.0
        self.validated: list[dict[str, float]] = []

    def _cast(self) -> Any:
        kind = self.device.partition(":")[0]
        return torch.autocast(kind, torch.bfloat16, enabled=self._autocast)

    def run(self) -> Trained:
        """All steps that are left, and the folder."""
        self._resume()
        log = None
        if self.ranks.first:
            checkpoints.clean(self.out)
            self._note("running", {})
            plain = self.settings.model_dump(mode="json")
            log = logs.Log(self.out, self.step, self.settings.logs, plain)
        try:
            self._steps(log)
        finally:
            self.loader.close()
            if log is not None:
                log.close()
        lost = self.left_out.tally()
        self.notes += lines(lost)
        figures = self._export(counts(lost)) if self.ranks.first else {}
        self.ranks.wait()
        return Trained(self.out, self.steps, figures, tuple(self.notes))

    def _steps(self, log: logs.Log | None) -> None:
        chosen = self.settings
        batches = self._batches()
        self.model.train()
        while self.step < self.steps:
            begin = time.perf_counter()
            values = self._learned(batches)
            self.step += 1
            values["seconds"] = time.perf_counter() - begin
            last = self.step == self.steps
            if self._due(last):
                values |= self._validated()
            if log is not None:
                if self.step % chosen.log_every == 0 or last or "R@10" in values:
                    log.write(self.step, values)
                self.say(self.step, self.steps, values)
            if self.step % chosen.checkpoints.every == 0 or last:
                self._checkpoint()

    def _due(self, last: bool) -> bool:
        every = self.settings.validation.every
        if not every:
            every = max(1, len(self.loader) // self.settings.accumulate)
        return last or self.step % every == 0

    def _batches(self) -> Iterator[tuple[int, Batch]]:
        """Batches with the number of their epoch, without end."""
        while True:
            epoch, whole, some = self.loader.epoch, not self.loader.state_dict()["samples"], False
            if whole:
                for hook in self.hooks.values():
                    hook.epoch(epoch)
            for batch in self.loader.batches():
                some = True
                yield epoch, batch
            if whole and not some:
                raise DatagenError(
                    "no sample of an epoch could be read "
                    f"({', '.join(sorted(self.loader.counts)) or 'no reason is known'})"
                )

    def _learned(self, batches: Iterator[tuple[int, Batch]]) -> dict[str, float]:
        """One step of the optimizer; its figures."""
        chosen = self.settings
        share = optimizing.share_of_peak(self.step, self.steps, chosen)
        rate = optimizing.set_rate(self.optimizer, share)
        total, parts, waited = 0.0, dict[str, float](), self.loader.waited
        for part in range(chosen.accumulate):
            epoch, batch = next(batches)
            # Only here: iterators of the loader draw random numbers of their own.
            torch.manual_seed(_random(chosen.seed, self.step, part, self.ranks.rank))
            lost = self._backward(batch)
            total += lost["loss"] / chosen.accumulate
            for name, value in lost.items():
                parts[name] = parts.get(name, 0.0) + value / chosen.accumulate
        members = list(self.weights.values())
        self.ranks.average(members)
        norm = torch.nn.utils.clip_grad_norm_(members, chosen.clip or float("inf"))
        if not bool(torch.isfinite(norm)):
            raise DatagenError(
                f"step {self.step + 1}: the loss or its gradients are not finite; lower "
                "learning_rate, set clip, or train with precision=fp32"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.mean.update()
        found = {**parts, "loss": total, "rate": rate, "gradient": float(norm), "epoch": epoch}
        return {**found, "waited": self.loader.waited - waited}

    def _backward(self, batch: Batch) -> dict[str, float]:
        """Add the gradients of a batch; what it lost."""
        chosen = self.settings
        for hook in self.hooks.values():
            batch = hook.batch(batch)
        weights = batch.get("weights")
        with self._cast():
            if chosen.chunk:
                lost = self.objective.cached(
                    batch, chosen.chunk, weights, scaled=lambda loss: loss / chosen.accumulate
                )
            else:
                lost = self.objective(batch, weights)
        if not chosen.chunk:
            (lost.total / chosen.accumulate).backward()
        for hook in self.hooks.values():
            hook.saw(batch, lost.each)
        return {"loss": float(lost.total.detach())} | {
            name: float(value) for name, value in lost.parts.items()
        }

    def _validated(self) -> dict[str, float]:
        """Figures of the model as it is; the best one's weights are kept."""
        found: dict[str, float] = {}
        if self.validation is not None:
            with self.mean.standing():
                found = self.validation.figures(self.model)[COMPOSED]
            self.validated.append({"step": self.step, **found})
            score = found[self.settings.validation.metric]
            if score > self.best:
                self.best = score
                state = {"step": self.step, "score": score, "weights": self.mean.values()}
                checkpoints.write_best(self.out, state)
        self.ranks.wait()
        return found

    def _checkpoint(self) -> None:
        lost = self.left_out.tally()
        if self.ranks.first:
            state = {
                "step": self.step,
                "weights": {name: one.detach() for name, one in self.weights.items()},
                "optimizer": self.optimizer.state_dict(),
                "mean": self.mean.state_dict(),
                "hooks": {name: hook.state_dict() for name, hook in self.hooks.items()},
                "loader": self.loader.state_dict(),
                "left_out": lost,
                "best": self.best,
                "validated": self.validated,
            }
            checkpoints.write(self.out, self.step, state, self.settings.checkpoints.keep)
        self.ranks.wait()

    def _resume(self) -> None:
        """Go on from the last checkpoint, where there is one."""
        state = checkpoints.last(self.out)
        if state is None:
            return
        self.step, self.best = int(state["step"]), float(state["best"])
        self.validated = list(state["validated"])
        optimizing.put(self.weights, state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.mean.load_state_dict(state["mean"])
        for name, hook in self.hooks.items():
            hook.load_state_dict(state["hooks"][name])
        self.loader.load_state_dict(state["loader"])
        if self.ranks.first:
            self.left_out.load(state["left_out"])

    def _export(self, left_out: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """Write the folder; figures of what it holds."""
        best = checkpoints.best(self.out) if self.settings.export == "best" else None
        values = best["weights"] if best else self.mean.values()
        optimizing.put(self.weights, values)
        figures: dict[str, dict[str, float]] = {}
        if self.validation is not None:
            figures = self.validation.figures(self.model, probes=True)
        told = {
            **self.settings.model_dump(mode="json", exclude_none=True),
            "trained_steps": self.steps,
            "exported_step": int(best["step"]) if best else self.steps,
            "processes": self.ranks.count,
            "sources": [beginning.told(one) for one in self.sources],
            "left_out": left_out,
        }
        last = logs.read(self.out)[-1:]
        told["last_loss"] = last[0].get("loss") if last else None
        tables = {f"{self.validation.on}, {kind}": table for kind, table in figures.items()} if (
            self.validation is not None
        ) else {}  # fmt: skip
        choice = self.settings.loader.frames
        self.model.eval()
        folders.save(self.out, self.model, choice=choice, training=told, figures=tables)
        self._note("finished", figures)
        return figures

    def _note(self, status: str, figures: Mapping[str, Any]) -> None:
        note = {
            "status": status,
            "settings": self.settings.learned(),
            "sources": [asdict(one) for one in self.sources],
            "steps": self.steps,
            "figures": figures,
            "validated": self.validated,
            "notes": self.notes,
        }
        store.write_json(os.path.join(self.out, NOTE), note)


def _random(*numbers: int) -> int:
    """The seed of the random numbers of a batch: of the training, its step and its rank."""
    digest = hashlib.blake2b("/".join(map(str, numbers)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")
