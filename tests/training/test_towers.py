"""Towers: tokens, trained parts and adapters, for every kind of dual encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny_dual_encoders
import tiny_models

from datagen import clip, models
from datagen.errors import DatagenError
from datagen.preprocess import Geometry

torch = pytest.importorskip("torch", reason="needs datagen[models]")
models.prepare()

from datagen.training import towers  # noqa: E402
from datagen.training._open_clip_towers import OpenClipTowers  # noqa: E402
from datagen.training.towers import LoraSettings, TowerSettings, Words  # noqa: E402

TEXTS = ["a red dog", "two cats on the table"]
TEXT = tiny_models.TINY_CLIP["text_cfg"]
VISION = {
    "plain": tiny_models.TINY_CLIP["vision_cfg"],
    "pooled": {**tiny_models.TINY_CLIP["vision_cfg"], "attentional_pool": True,
               "attn_pooler_queries": 1, "attn_pooler_heads": 2},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 64},
    "timm": {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none",
             "image_size": 160},
}  # fmt: skip


def built(kind: str) -> Any:
    """An open_clip model of random weights as towers."""
    import open_clip

    torch.manual_seed(0)
    size = VISION[kind]["image_size"]
    text = {**TEXT, "output_tokens": False}
    # A SigLIP image tower has no projection: the space is as wide as it.
    width = 64 if kind == "timm" else 24
    config = {"embed_dim": width, "vision_cfg": VISION[kind], "text_cfg": text}
    make = open_clip.model.CustomTextCLIP if kind == "timm" else open_clip.CLIP
    geometry = Geometry(size, size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    tokenizer = open_clip.SimpleTokenizer(context_length=24)
    known = clip.Config(config, {}, geometry)
    return OpenClipTowers(make(**config), tokenizer, known, "fp32", kind).eval()


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Any]]:
    """What makes fresh towers of each kind."""
    folder = tmp_path_factory.mktemp("models")
    refs = {
        "clip": tiny_dual_encoders.tiny_clip(folder / "clip"),
        "siglip": tiny_dual_encoders.tiny_siglip(folder / "siglip"),
        "tinyclip": "bundled:tinyclip",
    }
    loaded = {
        name: (lambda r=ref: towers.load(TowerSettings(model=r))) for name, ref in refs.items()
    }
    return loaded | {kind: (lambda k=kind: built(k)) for kind in VISION}


KINDS = ("plain", "pooled", "resnet", "timm", "tinyclip", "clip", "siglip")


def pixels(found: Any, count: int = 3, seed: int = 0) -> Any:
    made = torch.Generator().manual_seed(seed)
    shape = (count, found.geometry.height, found.geometry.width, 3)
    return torch.randint(0, 256, shape, generator=made, dtype=torch.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_change_no_vector_and_have_the_width_that_is_told(
    kind: str, makers: dict[str, Callable[[], Any]]
) -> None:
    found = makers[kind]()
    ids = found.tokenize(TEXTS)
    assert ids.shape == (2, found.length)
    with torch.no_grad():
        for encode, given, width in (
            (found.images, pixels(found), found.image_width),
            (found.texts, ids, found.text_width),
        ):
            plain, told = encode(given), encode(given, tokens=True)
            assert plain.tokens is None
            assert torch.equal(plain.pooled, told.pooled)
            assert plain.pooled.shape == (len(given), found.width)
            assert told.tokens.shape == (*told.mask.shape, width)
            assert len(told.tokens) == len(given)
            assert told.mask.any(1).all()
    # Two ends and the words, whatever the tokenizer pads with.
    lengths = found.texts(ids, tokens=True).mask.sum(1).tolist()
    assert lengths == [5, 7]


@pytest.mark.parametrize("kind", KINDS)
def test_image_tokens_are_patches_of_their_place(
    kind: str, makers: dict[str, Callable[[], Any]]
) -> None:
    found = makers[kind]()
    with torch.no_grad():
        tokens = found.images(pixels(found, 1), tokens=True).tokens
    side = tokens.shape[1] ** 0.5
    assert side == int(side)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", ["none", "projection", 1, "all"])
def test_only_what_is_chosen_is_trained(
    kind: str, parts: Any, makers: dict[str, Callable[[], Any]]
) -> None:
    found = makers[kind]()
    for image, text in ((parts, "none"), ("none", parts)):
        found.choose(TowerSettings(model="x", image=image, text=text))
        found.train()
        found.zero_grad(set_to_none=True)
        images, texts = (
            found.images(pixels(found)).pooled,
            found.texts(found.tokenize(TEXTS)).pooled,
        )
        total = (images**3).sum() + (texts**3).sum()
        chosen = {name for name, one in found.named_parameters() if one.requires_grad}
        if parts == "none":
            assert not chosen
            assert not total.requires_grad
            continue
        total.backward()
        moved = {name for name, one in found.named_parameters() if one.grad is not None}
        assert moved == chosen
        assert moved
        tower = found.part("image" if text == "none" else "text")
        every = {id(p) for one in tower.everything for p in towers._parameters(one)}
        own = {name for name, one in found.named_parameters() if id(one) in every}
        assert moved <= own
        assert parts != "all" or own - moved <= {
            f"model.{n}" for n in ("logit_scale", "logit_bias")
        }
        known = dict(found.named_parameters())
        assert any(bool(known[name].grad.any()) for name in moved)


@pytest.mark.parametrize(("parts", "groups"), [("projection", 1), (1, 2), (2, 3)])
def test_blocks_are_those_that_open_clip_itself_unlocks(parts: Any, groups: int) -> None:
    found, theirs = built("plain"), built("plain")
    for image, text in (
        (parts, "none"),
        ("none", min(parts, 1) if parts != "projection" else parts),
    ):
        found.choose(TowerSettings(model="x", image=image, text=text))
        model = theirs.model
        model.requires_grad_(False)
        model.lock_image_tower(groups if text == "none" else 0)
        model.lock_text_tower(min(groups, 2) if image == "none" else 0)
        wanted = {name for name, one in model.named_parameters() if one.requires_grad}
        chosen = {name for name, one in found.model.named_parameters() if one.requires_grad}
        assert chosen == wanted


def test_frozen_towers_and_running_statistics_stay_as_they_are() -> None:
    found = built("resnet")
    found.choose(TowerSettings(model="x", image="all"))
    found.train()
    before = {name: value.clone() for name, value in found.named_buffers()}
    found.images(pixels(found))
    assert all(torch.equal(value, before[name]) for name, value in found.named_buffers())
    assert not found.model.transformer.training
    assert found.model.visual.training


@pytest.mark.parametrize("kind", ["plain", "timm", "clip", "siglip"])
def test_adapters_begin_as_nothing_and_are_added_to_the_weights(
    kind: str, makers: dict[str, Callable[[], Any]]
) -> None:
    pytest.importorskip("peft")
    from datagen.training import _lora

    found, plain = makers[kind](), makers[kind]()
    given, ids = pixels(found), found.tokenize(TEXTS)
    with torch.no_grad():
        before = found.images(given).pooled, found.texts(ids).pooled
    found.choose(TowerSettings(model="x", lora=LoraSettings(rank=2), image="projection"))
    names = {name for name, one in found.named_parameters() if one.requires_grad}
    adapters = {name for name in names if "lora_" in name}
    projection = {id(p) for one in found.part("image").projection for p in one.parameters()} if (
        kind != "plain") else {id(found.model.visual.proj)}  # fmt: skip
    rest = {id(one) for name, one in found.named_parameters() if name in names - adapters}
    assert adapters
    assert rest <= projection
    with torch.no_grad():
        for old, new in zip(
            before, (found.images(given).pooled, found.texts(ids).pooled), strict=True
        ):
            np.testing.assert_allclose(old, new, atol=1e-5)
        for name, one in found.named_parameters():
            if name in adapters:
                one.normal_(std=0.3)
        moved = found.images(given).pooled, found.texts(ids).pooled
        assert not torch.allclose(moved[0], before[0], atol=1e-3)
        assert not torch.allclose(moved[1], before[1], atol=1e-3)
        whole = _lora.merged(found)
        plain.model.load_state_dict(whole.state_dict())
        np.testing.assert_allclose(plain.images(given).pooled, moved[0], atol=1e-4)
        np.testing.assert_allclose(plain.texts(ids).pooled, moved[1], atol=1e-4)
        # The towers themselves go on with their adapters.
        np.testing.assert_array_equal(found.images(given).pooled, moved[0])
    (found.images(given).pooled ** 3).sum().backward()
    assert any("lora_" in n and p.grad is not None for n, p in found.named_parameters())
    with pytest.raises(DatagenError, match="already"):
        found.choose(TowerSettings(model="x", lora=LoraSettings()))


def test_words_stand_where_they_are_put_and_take_the_gradient(
    makers: dict[str, Callable[[], Any]],
) -> None:
    for kind in ("plain", "timm", "clip", "siglip"):
        found = makers[kind]()
        ids = found.tokenize(["a red dog", "a blue dog"])
        table = found.embedding().weight
        blue = table[ids[1, 2]].detach().expand(2, 1, -1).clone().requires_grad_()
        rows = torch.tensor([True, False])
        told = found.texts(ids, Words(blue, 2, rows)).pooled
        plain = found.texts(ids).pooled.detach()
        np.testing.assert_allclose(told[0].detach(), plain[1], atol=1e-6)
        np.testing.assert_allclose(told[1].detach(), plain[1], atol=1e-6)
        told[0].pow(2).sum().backward()
        assert bool(blue.grad[0].any())
        assert not blue.grad[1].any()


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"image": 9}, "9 blocks"),
        ({"text": 5}, "5 blocks"),
    ],
)
def test_more_blocks_than_there_are_is_one_line(settings: dict[str, Any], hint: str) -> None:
    with pytest.raises(DatagenError, match=hint):
        built("plain").choose(TowerSettings(model="x", **settings))


def test_adapters_beside_trained_blocks_make_no_sense() -> None:
    with pytest.raises(ValueError, match="lora"):
        TowerSettings(model="x", image="all", lora=LoraSettings())


def test_activations_may_be_computed_again(makers: dict[str, Callable[[], Any]]) -> None:
    for kind in ("plain", "clip"):
        gradients = []
        for again in (False, True):
            found = makers[kind]()
            found.choose(TowerSettings(model="x", image="all", text="all"))
            if again:
                found.checkpointing()
            found.train()
            pooled = found.images(pixels(found)).pooled, found.texts(found.tokenize(TEXTS)).pooled
            sum((one**2).sum() for one in pooled).backward()
            gradients.append({n: p.grad for n, p in found.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, one in gradients[0].items():
            np.testing.assert_allclose(one, gradients[1][name], atol=1e-5, err_msg=name)
