from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datagen import embed, libraries, models
from datagen.errors import DatagenError

for module in ("torch", "torchvision", "open_clip", "sentence_transformers"):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module} (datagen[models])", allow_module_level=True)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no hub."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def put_in_cache(cache: Path, repository: str, folder: str, refs: bool = True) -> None:
    place = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    if refs:
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(COMMIT)


@pytest.mark.parametrize(
    ("ref", "scheme", "name", "tag"),
    [
        ("open_clip:ViT-L-14/openai", "open_clip", "ViT-L-14", "openai"),
        ("open_clip:ViT-B/32/openai", "open_clip", "ViT-B-32", "openai"),
        ("open_clip:hf-hub:org/name", "open_clip", "hf-hub:org/name", ""),
        ("open_clip:hf-hub:org/name@v1", "open_clip", "hf-hub:org/name", "v1"),
        ("hf:org/name@abc", "hf", "org/name", "abc"),
        ("hf:gpt2", "hf", "gpt2", ""),
        ("file:/some/where", "file", "/some/where", ""),
    ],
)
def test_a_reference_is_read_into_scheme_name_and_tag(
    ref: str, scheme: str, name: str, tag: str
) -> None:
    assert models.parse(ref) == models.ModelRef(scheme, name, tag)
    assert models.parse(str(models.parse(ref))) == models.parse(ref)


def test_a_relative_path_becomes_absolute_so_that_workers_find_it() -> None:
    assert Path(models.parse("file:here").name).is_absolute()


@pytest.mark.parametrize(
    ("ref", "hint"),
    [
        ("openclip:ViT-L-14/openai", "open_clip"),
        ("sentence-transformers/all-MiniLM-L6-v2", "hf:sentence-transformers/all-MiniLM-L6-v2"),
        ("open_clip:ViT-L14/openai", "ViT-L-14"),
        ("open_clip:ViT-L-14", "open_clip:ViT-L-14/TAG"),
        ("open_clip:hf-hub:name", "org/name"),
        ("hf:../../etc/passwd", "org/name"),
        ("hf:", "nothing stands after"),
        ("bundled:missing", "bundled:missing"),
    ],
)
def test_a_bad_reference_is_one_line_with_the_mend(ref: str, hint: str) -> None:
    with pytest.raises(DatagenError) as caught:
        models.parse(ref)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_tag_names_the_nearest() -> None:
    with pytest.raises(DatagenError, match="did you mean 'openai'"):
        models.revision(models.parse("open_clip:ViT-B-32/opnai"))


def test_importing_models_and_operators_imports_no_torch() -> None:
    run(
        "import sys; from datagen import models, embed, clip; from datagen.filters import "
        "clip_score; from datagen.embed import open_clip, sentence_transformers, tfidf\n"
        "models.parse('hf:org/name'); embed.operator_for({'model': 'hf:org/name'})\n"
        "assert not {'torch', 'open_clip', 'transformers', 'torchvision'} & set(sys.modules)"
    )


def test_open_clip_imports_in_a_fresh_process_whatever_torchvision_is_linked_to(
    tiny_clip: str,
) -> None:
    run(
        "from datagen import clip, models\n"
        f"loaded = clip.load(models.parse({tiny_clip!r}), device='cpu', batch_size=2)\n"
        "import torchvision, open_clip, timm, transformers\n"
        "assert loaded.texts(['a dog']).shape == (1, 24)"
    )


def test_torchvision_is_mended_once_from_many_threads() -> None:
    run(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from datagen import libraries\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    list(pool.map(lambda _: libraries.mend_torchvision(), range(16)))\n"
        "assert len(libraries._defined) <= 1\n"
        "import torchvision, torch\n"
        "assert hasattr(torch.ops.torchvision, 'nms')\n"
        "libraries.mend_torchvision()"
    )


def test_torchvision_mended_by_someone_else_is_left_alone() -> None:
    run(
        "import torch\n"
        "from datagen import libraries\n"
        "libraries.mend_torchvision(); libraries._defined and libraries._defined.append(0)\n"
        "mine = libraries._defined[:]; libraries._defined.clear()\n"
        "libraries.mend_torchvision()\n"
        "assert libraries._defined == []"
    )


def test_telemetry_is_off_unless_the_user_turned_it_on() -> None:
    code = "import os; from datagen import models; models.quiet(); print(os.environ['{}'])"
    assert run(code.format("HF_HUB_DISABLE_TELEMETRY")).strip() == "1"
    kept = run(code.format("HF_HUB_DISABLE_TELEMETRY"), HF_HUB_DISABLE_TELEMETRY="0")
    assert kept.strip() == "0"


def test_devices_and_precisions_are_chosen_by_name_or_refused() -> None:
    torch = models.import_torch()
    cuda = torch.cuda.is_available()
    assert models.device("cpu") == "cpu"
    assert models.device("auto") == ("cuda" if cuda else models.device("auto"))
    assert models.precision("auto", "cpu") == "fp32"
    assert models.precision("bf16", "cpu") == "bf16"
    assert models.gpus("cpu") == 0
    assert models.gpus("cuda") == 1
    assert models.gpus() == (1.0 if cuda else 0.0)
    for choice in ("gpu", "cuda:x", "tpu"):
        with pytest.raises(DatagenError, match="device"):
            models.device(choice)
    with pytest.raises(DatagenError, match="did you mean 'bf16'"):
        models.precision("bfloat16", "cpu")
    if not cuda:
        with pytest.raises(DatagenError, match="there is none here"):
            models.device("cuda")


def test_the_revision_of_a_folder_follows_its_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "README.md").write_text(name)
    first, same = (models.revision(models.parse(f"file:{tmp_path / n}")) for n in "ab")
    assert first == same
    (tmp_path / "b" / "model.safetensors").write_bytes(b"others!")
    assert models.revision(models.parse(f"file:{tmp_path / 'b'}")) != first
    (tmp_path / "a" / "config.json").write_text('{"x": 1}')
    assert models.revision(models.parse(f"file:{tmp_path / 'a'}")) != first
    with pytest.raises(DatagenError, match="no such file"):
        models.revision(models.parse(f"file:{tmp_path / 'absent'}"))


def test_a_model_of_the_hub_is_known_by_its_commit_from_the_cache(
    cache: Path, tiny_encoder: str
) -> None:
    put_in_cache(cache, "org/encoder", tiny_encoder.removeprefix("file:"))
    ref = models.parse("hf:org/encoder")
    assert models.revision(ref) == COMMIT
    assert models.at(ref, COMMIT) == models.parse(f"hf:org/encoder@{COMMIT}")
    for found in (ref, models.at(ref, COMMIT)):
        loaded = models.load_sentence_transformer(found)
        assert loaded.encode(["a dog"]).shape == (1, 32)


def test_a_cache_without_branch_names_still_serves_its_only_snapshot(
    cache: Path, tiny_encoder: str
) -> None:
    put_in_cache(cache, "org/encoder", tiny_encoder.removeprefix("file:"), refs=False)
    assert models.revision(models.parse("hf:org/encoder")) == COMMIT
    with pytest.raises(DatagenError, match="cannot be reached"):
        models.revision(models.parse("hf:org/encoder@other"))


def test_without_a_hub_the_error_is_one_line_that_says_how_to_mend(cache: Path) -> None:
    for ref in ("hf:org/none", "open_clip:hf-hub:org/none", "open_clip:ViT-B-32/openai"):
        with pytest.raises(DatagenError) as caught:
            models.revision(models.parse(ref))
        line = str(caught.value)
        assert "\n" not in line
        assert "HF_HOME" in line
        assert "file:/path" in line
    assert "hf download org/none" in _error_of("hf:org/none")


def _error_of(ref: str) -> str:
    with pytest.raises(DatagenError) as caught:
        models.load_sentence_transformer(models.parse(ref))
    return str(caught.value)


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(DatagenError, match=r"nosuch is not installed.*datagen\[models\]"):  # noqa: SIM117
        with libraries.loading("file:/x"):
            import nosuch  # noqa: F401


def test_a_folder_that_wants_to_run_code_is_refused(tmp_path: Path, tiny_encoder: str) -> None:
    folder = tmp_path / "custom"
    shutil.copytree(tiny_encoder.removeprefix("file:"), folder)
    proof = tmp_path / "ran"
    (folder / "mine.py").write_text(f"open({str(proof)!r}, 'w').close()\nclass Own: pass\n")
    parts = json.loads((folder / "modules.json").read_text())
    parts[0]["type"] = "mine.Own"
    (folder / "modules.json").write_text(json.dumps(parts))
    assert "trust_remote_code: true" in _error_of(f"file:{folder}")
    assert not proof.exists()


def test_pickled_weights_that_carry_code_are_refused(tmp_path: Path, tiny_encoder: str) -> None:
    import pickle

    folder = tmp_path / "pickled"
    shutil.copytree(tiny_encoder.removeprefix("file:"), folder)
    (folder / "model.safetensors").unlink()
    proof = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(proof), "w")

    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Bomb(), file)
    _error_of(f"file:{folder}")
    assert not proof.exists()


def test_an_encoder_cannot_be_an_open_clip_reference() -> None:
    assert "hf: or file:" in _error_of("open_clip:ViT-B-32/openai")


def test_unit_vectors_are_unit_and_hide_the_last_bits() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 64)).astype(np.float32)
    rows[3] = 0
    rows[4, 0] = np.inf
    unit = models.unit_vectors(rows)
    assert np.isnan(unit[[3, 4]]).all()
    good = np.delete(np.arange(50), [3, 4])
    assert np.abs(np.linalg.norm(unit[good], axis=1) - 1).max() < 1e-3
    assert (unit[good] == unit[good].astype(np.float16)).all()


def test_the_embedder_is_inferred_from_model_and_space(
    tiny_clip: str, tiny_encoder: str, tmp_path: Path
) -> None:
    infer = embed.operator_for
    assert infer({"model": "open_clip:ViT-B-32/openai", "space": "image"}) == "open_clip"
    assert infer({"model": tiny_clip, "space": "image"}) == "open_clip"
    assert infer({"model": tiny_clip, "space": "caption"}) == "open_clip"
    assert infer({"model": tiny_encoder, "space": "caption"}) == "sentence_transformers"
    assert infer({"model": "hf:org/name", "space": "caption"}) == "sentence_transformers"
    assert infer({"model": "hf:org/name", "space": "structure"}) is None
    assert infer({"model": f"file:{tmp_path}", "space": "caption"}) is None
    assert infer({"model": "tfidf"}) == "tfidf"
    assert infer({"space": "caption"}) is None
    assert infer({"model": "nonsense", "space": "caption"}) == "open_clip"
