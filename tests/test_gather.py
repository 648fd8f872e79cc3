"""Rounds of asks, with the engine's own part (vLLM by ray.data.llm) done by a function here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datagen import gather, schema, store
from datagen.chat import settings as engines
from datagen.chat import vllm
from datagen.chat.ask import Answer, Ask
from datagen.chat.asking import Asking
from datagen.engine import Job, apply
from datagen.errors import DatagenError
from datagen.step import Context, Resources, RowOperator, Settings

ENGINE = {"kind": "vllm", "device": "cuda", "tensor_parallel": 2, "workers": 3}
WANTS = Resources(gpus=2.0, workers=3, batch_size=7, actor=True)


class TalksSettings(Settings):
    engine: engines.EngineSettings
    depth: int = 2


class Talks(Asking[TalksSettings], RowOperator[TalksSettings]):
    """Asks ``depth`` times, each time about the answer before; rows of a kind ask the same."""

    Settings = TalksSettings

    def __call__(self, rows: pa.Table) -> pa.Table:
        said, verdicts = [], []
        for name in rows["id"].to_pylist():
            text: str | None = name.partition("-")[0]
            for _ in range(self.settings.depth):
                (answer,) = self.engines["engine"].answer([question(text or "")])
                text = answer.text
                if text is None:
                    break
            said.append(text if text is not None else answer.fault)
            verdicts.append(schema.KEPT if text is not None else schema.FAILED)
        columns = [rows["id"], pa.array(said, pa.string()), pa.array(verdicts, pa.string())]
        return pa.table(columns, names=["id", "said", "verdict"])


def question(text: str) -> Ask:
    return Ask(({"role": "user", "content": text},), seed=None, stop=("end",))


class Local:
    """The engine of a step, in this process."""

    cpus, gpus = 2.0, 8.0

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str, often: bool) -> None:
        self.said.append(text)

    def rows(self, job: Job, pending: pa.Table, wants: Resources, progress: Any) -> None:
        job.operator.open(job.context)
        for start in range(0, pending.num_rows, 5):
            table = job.operator(pending.slice(start, 5))
            store.Journal(job.journal).append(table)


class Asked:
    """Stands for the plan of ray.data.llm: every lot of asks is read, answered and kept."""

    def __init__(self, answer: Callable[[Ask], Answer]) -> None:
        self.answer = answer
        self.asked: Counter[str] = Counter()
        self.rounds: list[int] = []
        self.source: vllm.Source | None = None

    def planned(self, one: gather._Round, source: vllm.Source, places: Any, _: Any) -> Asked:
        self.source = source
        self.one, self.places = one, places
        return self

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        self.rounds.append(0)
        for part, rows in self.places:
            asks = gather._read(pa.Table.from_pylist([{"part": part, "rows": rows.tolist()}]))
            for row in asks.to_pylist():
                ask = vllm.unpacked(row["ask"])
                assert ask.stop == ("end",)
                self.asked[ask.messages[0]["content"]] += 1
                self.rounds[-1] += 1
                answer = self.answer(ask)
                found = {"key": row["key"], "text": answer.text, "fault": answer.fault}
                found |= {"tokens_in": 3, "tokens_out": 4, vllm.ERROR: ""}
                if answer.text is None:
                    found |= {"text": None, "tokens_in": None, vllm.ERROR: answer.fault}
                folders = (self.one.asked.answers.folder, self.one.asked.faults.folder)
                yield gather._keep(pa.Table.from_pylist([found]), *folders, str(len(self.rounds)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def talk(
    model: Path, monkeypatch: Any, answer: Callable[[Ask], Answer], ids: list[str], depth: int = 2
) -> tuple[Asked, Resources, dict[str, Any]]:
    """Work on rows as the engine does: first rounds of asks, then the rows."""
    asked = Asked(answer)
    monkeypatch.setattr(gather._Round, "_planned", lambda *given: asked.planned(*given))
    monkeypatch.setattr(gather, "_wait", lambda _: None)
    monkeypatch.setattr(vllm, "check", lambda _: None)
    described = {"engine": {**ENGINE, "model": f"file:{model}"}, "depth": depth}
    operator = Talks(TalksSettings.model_validate(described))
    context = Context(step="talks", out_dir=str(model.parent / "run"))
    rows = pa.table({"id": ids})
    job = Job(operator, context, store.join(context.out_dir, "journal"))
    engine = Local()
    wants = gather.answered(engine, job, rows, WANTS)  # type: ignore[arg-type]
    if asked.rounds:
        assert engine.said[-1] == f"{asked.rounds[-1]} of {asked.rounds[-1]} asks answered"
    operator.open(context)
    found = apply(job, rows).to_pylist()
    return asked, wants, {row["unit"]: (row["verdict"], row["said"]) for row in found}


def answers(ask: Ask) -> Answer:
    text = ask.messages[0]["content"]
    return Answer(None, "too hard") if text.startswith("bad") else Answer(f"{text}!")


def test_rounds_go_on_until_nothing_is_left_to_ask(model: Path, monkeypatch: Any) -> None:
    ids = [f"{kind}-{n}" for n in range(9) for kind in ("a", "b", "bad", "é\ud800"[:1])]
    asked, wants, found = talk(model, monkeypatch, answers, ids, depth=3)
    # Three questions about each kind, one a round, asked once for all rows that ask it.
    assert asked.rounds == [4, 3, 3]
    assert set(asked.asked.values()) == {1}
    for name, (verdict, said) in found.items():
        kind = name.partition("-")[0]
        right = (schema.FAILED, "too hard") if kind == "bad" else (schema.KEPT, f"{kind}!!!")
        assert (verdict, said) == right
    # The rows themselves want no GPU and no actor.
    assert wants == Resources(batch_size=7)
    assert not store.exists(str(model.parent / "run" / "spent" / "talks" / "asks"))


def test_what_is_kept_is_not_asked_again_and_faults_are(model: Path, monkeypatch: Any) -> None:
    talk(model, monkeypatch, answers, ["a-1", "bad-1"])
    asked, _, found = talk(model, monkeypatch, answers, ["a-2", "bad-2", "c-1"])
    assert asked.asked == {"bad": 1, "c": 1, "c!": 1}
    assert found["bad-2"] == (schema.FAILED, "too hard")


def test_answers_before_a_stop_are_kept(model: Path, monkeypatch: Any) -> None:
    left = iter(range(3))

    def stops(ask: Ask) -> Answer:
        if next(left, None) is None:
            raise DatagenError("the engine ended")
        return answers(ask)

    ids = [f"{letter}-1" for letter in "abcdefgh"]
    with pytest.raises(DatagenError, match="ended"):
        talk(model, monkeypatch, stops, ids, depth=1)
    asked, _, found = talk(model, monkeypatch, answers, ids, depth=1)
    assert asked.rounds == [5]
    assert {said for _, said in found.values()} == {f"{letter}!" for letter in "abcdefgh"}


def test_an_operator_that_never_ends_to_ask_is_left(model: Path, monkeypatch: Any) -> None:
    asked, _, found = talk(model, monkeypatch, answers, ["a-1"], depth=50)
    assert asked.rounds == [1] * gather.ROUNDS
    assert found["a-1"] == (schema.FAILED, "not answered yet")


def test_the_plan_knows_copies_and_gpus(model: Path) -> None:
    described = {**ENGINE, "model": f"file:{model}"}
    operator = Talks(TalksSettings.model_validate({"engine": described}))
    assert operator.resources() == Resources(gpus=2.0, workers=3, batch_size=256, actor=True)

    def copies(have: float, **wants: Any) -> tuple[int, int]:
        context = Context(step="talks", out_dir=str(model.parent))
        (one,) = gather.gathering(operator, context)
        engine = Local()
        engine.gpus = have
        return gather._Round(engine, "talks", Resources(**wants), one)._copies()  # type: ignore[arg-type]

    assert copies(8, gpus=2, workers=3) == (3, 3)
    assert copies(8, gpus=2) == (4, 4)
    assert copies(4, gpus=2, workers=3) == (2, 3)
    assert copies(0, gpus=2, workers=3) == (1, 3)  # a cluster that grows
    assert copies(0, gpus=0) == (1, 1)


def test_engines_that_answer_on_their_own_are_left_alone(tmp_path: Path) -> None:
    server = {"kind": "server", "url": "http://localhost:1/v1", "model": "x"}
    operator = Talks(TalksSettings.model_validate({"engine": server}))
    job = Job(operator, Context(out_dir=str(tmp_path)), str(tmp_path / "journal"))
    assert gather.answered(Local(), job, pa.table({"id": ["a"]}), WANTS) is WANTS  # type: ignore[arg-type]


def test_outside_a_run_there_is_nobody_to_answer(model: Path) -> None:
    described = {"engine": {**ENGINE, "model": f"file:{model}"}}
    operator = Talks(TalksSettings.model_validate(described))
    (answer,) = operator.engines["engine"].answer([question("a")])
    assert answer.text is None
    assert "within a run" in (answer.fault or "")


def test_rows_that_a_worker_keeps_are_whole_lines(tmp_path: Path) -> None:
    folders = (str(tmp_path / "answers"), str(tmp_path / "faults"))
    for folder in folders:
        store.make_folder(folder)
    key = question("a").key("m")
    row = {"key": key, "text": "hi", "fault": None, "tokens_in": 1, "tokens_out": 2}
    counts = gather._keep(pa.Table.from_pylist([row]), *folders, "1").to_pylist()
    assert counts == [{"answers": 1, "faults": 0, "error": None}]
    (file,) = Path(folders[0]).iterdir()
    assert json.loads(file.read_text().split(" ", 2)[2])["text"] == "hi"
