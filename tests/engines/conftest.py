"""Real engines of language models, from the environment of ``make engines``; and a tiny model.

The tests here skip, and say so, where that environment was not made.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Seconds until a server answers: some on a machine at rest, many on one that has more to do.
PATIENCE = 1800

TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter of the environment of engines."""
    place = Path(os.environ.get("ENGINES", ROOT / ".engines")).absolute()
    if not (place / ".ready").exists():
        pytest.skip("no engines here: 'make engines' brings vLLM and transformers serve (4 GB)")
    return str(place / "bin" / "python")


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment variables of engines: no hub, little memory, one thread."""
    own = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    own |= {"VLLM_ENGINE_READY_TIMEOUT_S": str(PATIENCE), "VLLM_NO_USAGE_STATS": "1"}
    return {**os.environ, **own, "RAY_worker_niceness": "0"}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers in the sizes that vLLM takes; its tokens are ASCII letters."""
    pytest.importorskip("torch", reason="needs datagen[models]")
    from datagen import models

    models.prepare()
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    # ASCII, a blank and the end of a line: engines show half a letter of UTF-8 in different ways.
    letters = sorted(one for one in pre_tokenizers.ByteLevel.alphabet() if one.isascii())
    letters += ["Ġ", "Ċ"]
    made = Tokenizer(BPE({letter: number for number, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|turn|>"],
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def serving(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., str]]:
    """Starts a server with a command that takes ``--port``; its address."""
    with contextlib.ExitStack() as ends:

        def start(*command: str) -> str:
            port = free_port()
            said = tmp_path_factory.mktemp("server") / "said.txt"
            with said.open("wb") as file:
                process = subprocess.Popen(
                    [*command, "--host", "127.0.0.1", "--port", str(port)],
                    env=environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            ends.callback(end, process)
            address = f"http://127.0.0.1:{port}"
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                assert process.poll() is None, said.read_text()[-3000:]
                with contextlib.suppress(OSError, urllib.error.URLError):
                    urllib.request.urlopen(f"{address}/health", timeout=5).close()
                    return f"{address}/v1"
                time.sleep(0.2)
            raise AssertionError(said.read_text()[-3000:])

        yield start


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
