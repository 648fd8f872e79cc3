from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from datagen.edits._alignment import Alignment, align
from datagen.edits._guidance import EachGuidance
from datagen.edits._shared_attention import Layers, Shares, Sharing, unfit
from datagen.errors import DatagenError

torch = pytest.importorskip("torch", reason="needs datagen[diffusion]")
diffusers = pytest.importorskip("diffusers", reason="needs datagen[diffusion]")
import tiny_diffusers  # noqa: E402

STEPS = 4
DOG, CAT = "a red dog on the grass", "a blue cat with a shoe on the grass"
SEA, SKY = "the sea at left", "the sky at left"


@pytest.fixture(scope="module", params=["stable_diffusion", "sdxl"])
def pipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    build = getattr(tiny_diffusers, f"tiny_{request.param}")
    folder = build(tmp_path_factory.mktemp("model")).removeprefix("file:")
    # In double precision nothing but what is meant to differ does.
    loaded = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float64)
    loaded.set_progress_bar_config(disable=True)
    # Attention of random weights says little: let the text be heard.
    for name, weights in loaded.unet.named_parameters():
        if ".to_" in name and name.endswith("weight"):
            weights.data *= 4
    return loaded


def aligned(pipe: Any, first: str, second: str) -> Alignment:
    tokenizers = [pipe.tokenizer, getattr(pipe, "tokenizer_2", None)]
    return align([one for one in tokenizers if one is not None], first, second)


def run(pipe: Any, prompts: Sequence[str], seeds: Sequence[int], **more: Any) -> np.ndarray:
    """Pictures as latents (n, 4, 8, 8)."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    settings = {"guidance_scale": 7.5, "num_inference_steps": STEPS, "output_type": "latent"}
    images = pipe(list(prompts), generator=generators, **(settings | more)).images
    return np.asarray(images.double())


def paint(
    pipe: Any,
    samples: Sequence[tuple[str, str, int, float, float]],
    layers: Layers | None = None,
    **more: Any,
) -> np.ndarray:
    """Pictures (samples, 2, 4, 8, 8) of (reference, target, seed, cross share, self share)."""
    shares = [Shares(c, s, aligned(pipe, first, second)) for first, second, _, c, s in samples]
    with Sharing(pipe.unet, shares, layers) as sharing:
        prompts = [caption for one in samples for caption in one[:2]]
        seeds = [one[2] for one in samples for _ in range(2)]
        images = run(pipe, prompts, seeds, callback_on_step_end=sharing.step_end, **more)
    return images.reshape(-1, 2, *images.shape[1:])


def close(one: np.ndarray, other: np.ndarray) -> bool:
    return float(np.abs(one - other).max()) < 1e-6


def test_share_zero_is_two_plain_runs_from_one_noise(pipe: Any) -> None:
    ((reference, target),) = paint(pipe, [(DOG, CAT, 3, 0, 0)])
    assert np.array_equal(np.stack([reference, target]), run(pipe, [DOG, CAT], [3, 3]))
    assert close(reference, run(pipe, [DOG], [3])[0])
    assert close(target, run(pipe, [CAT], [3])[0])
    assert not close(reference, target)


@pytest.mark.parametrize(("cross", "within"), [(1, 0), (0, 1), (0.5, 0.25), (1, 1)])
def test_the_reference_is_what_it_would_be_alone(pipe: Any, cross: float, within: float) -> None:
    ((reference, target),) = paint(pipe, [(DOG, CAT, 3, cross, within)])
    assert close(reference, run(pipe, [DOG], [3])[0])
    assert not close(target, run(pipe, [CAT], [3])[0])


def test_equal_captions_give_equal_panels(pipe: Any) -> None:
    ((reference, target),) = paint(pipe, [(DOG, DOG, 5, 1, 1)])
    assert close(reference, target)


class ByHand:
    """Attention with all maps written down, for one sample with guidance: as the paper tells it.

    The batch is reference and target without captions, then with them.
    """

    def __init__(self, cross: int, within: int, alignment: Alignment) -> None:
        self.cross, self.within = cross, within
        self.taken = torch.tensor(alignment.taken).double()
        self.own = torch.tensor(alignment.own).double()
        self.step = 0
        #: Cross-attention maps of the first step: (4, heads, places, tokens) for each layer.
        self.maps: list[Any] = []

    def count(self, _: Any, step: int, __: Any, kept: dict[str, Any]) -> dict[str, Any]:
        self.step = step + 1
        return kept

    def __call__(
        self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, **_: Any
    ) -> Any:
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            attn.head_to_batch_dim(part)
            for part in (attn.to_q(hidden_states), attn.to_k(read), attn.to_v(read))
        )
        maps = attn.get_attention_scores(q, k).unflatten(0, (4, attn.heads))
        if encoder_hidden_states is None:
            if self.step < self.within:
                maps[1], maps[3] = maps[0], maps[2]
        else:
            if self.step < self.cross:
                moved = torch.einsum("hpi,ij->hpj", maps[2], self.taken)
                maps[3] = moved + maps[3] * self.own
            if not self.step:
                self.maps.append(maps.clone())
        out = attn.batch_to_head_dim(maps.flatten(0, 1) @ v)
        return attn.to_out[0](out)


@pytest.fixture
def plain(pipe: Any) -> Iterator[Any]:
    before = dict(pipe.unet.attn_processors)
    yield pipe
    pipe.unet.set_attn_processor(before)


@pytest.mark.parametrize(
    ("cross", "within", "steps"),
    [(1, 0, (4, 0)), (0.5, 0, (2, 0)), (0, 0.3, (0, 2)), (1, 0.75, (4, 3))],
)
@pytest.mark.parametrize("captions", [(DOG, CAT), (SEA, SKY)])
def test_pictures_are_those_of_maps_that_are_written_down(
    plain: Any, captions: tuple[str, str], cross: float, within: float, steps: tuple[int, int]
) -> None:
    ours = paint(plain, [(*captions, 7, cross, within)])[0]
    by_hand = ByHand(*steps, aligned(plain, *captions))
    plain.unet.set_attn_processor(by_hand)
    theirs = run(plain, captions, [7, 7], callback_on_step_end=by_hand.count)
    assert close(ours, theirs)


def test_words_that_are_shared_are_painted_at_the_same_place(plain: Any) -> None:
    by_hand = ByHand(STEPS, STEPS, aligned(plain, DOG, CAT))
    plain.unet.set_attn_processor(by_hand)
    run(plain, [DOG, CAT], [7, 7], callback_on_step_end=by_hand.count)
    assert by_hand.maps
    before, after = (
        plain.tokenizer.convert_ids_to_tokens(plain.tokenizer(text)["input_ids"])
        for text in (DOG, CAT)
    )
    shared = ["<|startoftext|>", "a</w>", "on</w>", "the</w>", "grass</w>", "<|endoftext|>"]
    for maps in by_hand.maps:
        for token in shared:
            old, new = before.index(token), after.index(token)
            assert torch.allclose(maps[3, :, :, new], maps[2, :, :, old], rtol=1e-12)
        new = after.index("blue</w>")
        assert not torch.allclose(maps[3, :, :, new], maps[2, :, :, new], rtol=1e-3)


def test_a_sample_is_the_same_beside_others_with_other_shares(pipe: Any) -> None:
    samples = [(DOG, CAT, 1, 0.5, 0), (SEA, SKY, 2, 0, 1), (CAT, DOG, 3, 0, 0), (DOG, SKY, 4, 1, 1)]
    together = paint(pipe, samples)
    for sample, panels in zip(samples, together, strict=True):
        assert close(panels, paint(pipe, [sample])[0])
    # In a batch of the same size it is the same to the last bit.
    beside = [samples[0], *[(SEA, DOG, 9, 0, 0)] * 3]
    assert np.array_equal(paint(pipe, beside)[0], together[0])


def test_each_sample_of_a_batch_has_its_own_guidance(pipe: Any) -> None:
    samples = [(DOG, CAT, 1, 0.5, 0.5), (SEA, SKY, 2, 0, 0)]
    both = paint(pipe, samples, guidance_scale=EachGuidance([3.5, 3.5, 0.5, 0.5]))
    assert close(both[0], paint(pipe, samples[:1], guidance_scale=3.5)[0])
    assert close(both[1], paint(pipe, samples[1:], guidance_scale=1.0)[0])
    assert not close(both[0], paint(pipe, samples[:1], guidance_scale=4.0)[0])


def test_it_works_without_guidance(pipe: Any) -> None:
    ((reference, target),) = paint(pipe, [(DOG, CAT, 3, 1, 1)], guidance_scale=1.0)
    assert close(reference, run(pipe, [DOG], [3], guidance_scale=1.0)[0])
    assert not close(target, run(pipe, [CAT], [3], guidance_scale=1.0)[0])


@pytest.mark.parametrize("kind", ["EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"])
def test_noise_on_the_way_is_the_same_for_both_panels(pipe: Any, kind: str) -> None:
    before = pipe.scheduler
    pipe.scheduler = getattr(diffusers, kind).from_config(before.config)
    try:
        ((reference, target),) = paint(pipe, [(DOG, DOG, 3, 0, 0)])
        assert close(reference, target)
        ((reference, _),) = paint(pipe, [(DOG, CAT, 3, 1, 1)])
        assert close(reference, run(pipe, [DOG], [3])[0])
    finally:
        pipe.scheduler = before


def test_half_precision_shares_as_well(tmp_path: Any) -> None:
    folder = tiny_diffusers.tiny_stable_diffusion(tmp_path).removeprefix("file:")
    load = diffusers.DiffusionPipeline.from_pretrained
    for dtype in (torch.bfloat16, torch.float16):
        half = load(folder, torch_dtype=dtype)
        half.set_progress_bar_config(disable=True)
        ((reference, target),) = paint(half, [(DOG, CAT, 3, 0.5, 0.5)])
        assert np.isfinite(target).all()
        assert np.abs(reference - run(half, [DOG], [3])[0]).max() < 0.1


def test_only_the_named_layers_share_their_self_attention(pipe: Any) -> None:
    names = [name for name in pipe.unet.attn_processors if "attn1" in name]
    held = {
        (blocks, coarseness): {
            name.partition(".")[0] for name in names if Layers(blocks, coarseness).hold(name, 2)
        }
        for blocks in (("down", "mid", "up"), ("up",))
        for coarseness in (1, 2, 4)
    }
    assert held[("down", "mid", "up"), 1] == {"down_blocks", "mid_block", "up_blocks"}
    assert held[("up",), 1] == {"up_blocks"}
    assert not held[("up",), 4]
    coarse = [name for name in names if Layers(coarseness=2).hold(name, 2)]
    assert {name.split(".attentions")[0] for name in coarse} == {
        *("down_blocks.1", "mid_block", "up_blocks.0")
    }


def test_grids_are_as_coarse_as_their_names_say(pipe: Any) -> None:
    seen: dict[str, int] = {}
    hooks = [
        layer.register_forward_hook(
            lambda _, states, __, name=name: seen.__setitem__(name, states[0].shape[1])
        )
        for name, layer in pipe.unet.named_modules()
        if name.endswith("attn1")
    ]
    run(pipe, [DOG], [1], num_inference_steps=1)
    for hook in hooks:
        hook.remove()
    finest = max(seen.values())
    for name, places in seen.items():
        for coarseness in (1, 2, 4):
            assert Layers(coarseness=coarseness).hold(name, 2) == (finest >= places * coarseness**2)


def test_where_no_layer_shares_nothing_changes(pipe: Any) -> None:
    nowhere = paint(pipe, [(DOG, CAT, 3, 0, 1)], Layers(coarseness=4))
    assert close(nowhere, paint(pipe, [(DOG, CAT, 3, 0, 0)]))
    some = paint(pipe, [(DOG, CAT, 3, 0, 1)], Layers(("up",)))
    everywhere = paint(pipe, [(DOG, CAT, 3, 0, 1)])
    assert not close(some, nowhere)
    assert not close(some, everywhere)


def test_processors_are_given_back_even_after_a_fault(pipe: Any) -> None:
    before = dict(pipe.unet.attn_processors)
    alignment = aligned(pipe, DOG, CAT)
    sharing = Sharing(pipe.unet, [Shares(1, 1, alignment)])
    with pytest.raises(DatagenError, match="a batch of 2 panels"), sharing:
        run(pipe, [DOG, CAT, DOG], [1, 2, 3])
    assert dict(pipe.unet.attn_processors) == before
    short = Alignment(alignment.taken[:9, :9], alignment.own[:9], same=False)
    sharing = Sharing(pipe.unet, [Shares(1, 0, short)])
    with pytest.raises(DatagenError, match="captions of 9 tokens expected, the UNet"), sharing:
        run(pipe, [DOG, CAT], [1, 2])
    assert dict(pipe.unet.attn_processors) == before


def test_pipelines_that_cannot_share_are_named() -> None:
    for fits in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        assert unfit(getattr(diffusers, fits)) is None
    for name, why in {
        "FluxPipeline": "has a transformer",
        "StableDiffusion3Pipeline": "has a transformer",
        "StableDiffusionInstructPix2PixPipeline": "captions alone",
        "StableDiffusionInpaintPipeline": "captions alone",
        "DDPMPipeline": "captions alone",
    }.items():
        told = unfit(getattr(diffusers, name)) or ""
        assert told.startswith(name)
        assert why in told
        assert "with a UNet" in told


def test_attention_of_another_kind_is_named(pipe: Any) -> None:
    before = dict(pipe.unet.attn_processors)
    pipe.unet.set_attn_processor(ByHand(0, 0, aligned(pipe, DOG, CAT)))
    try:
        with pytest.raises(DatagenError, match="attends by ByHand"), Sharing(pipe.unet, []):
            pass
    finally:
        pipe.unet.set_attn_processor(before)
