"""The models of open_clip as towers: CLIP, SigLIP, EVA, CoCa, ConvNeXt and ResNet ones."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn

from datagen import clip, models, store
from datagen.errors import DatagenError
from datagen.training import _lora
from datagen.training.towers import Encoded, Part, Towers, caught

#: What stands behind the blocks of open_clip's and timm's towers.
_BEHIND = ("ln_post", "attn_pool", "attn_pool_contrastive", "ln_final", "norm", "fc_norm")


class OpenClipTowers(Towers):
    """An open_clip model."""

    def __init__(
        self, model: Any, tokenizer: Any, config: clip.Config, precision: str, reference: str
    ) -> None:
        super().__init__(model, config.geometry, reference)
        self.tokenizer, self._config, self._precision = tokenizer, config, precision
        #: Of a CLIP whose text tower stands in the model itself, that model.
        self.text: Any = getattr(model, "text", model)
        self.width = int(config.model["embed_dim"])
        self.word_width = int(self.embedding().weight.shape[1])
        self.text_width = self.word_width
        # A tokenizer of whole words has its own end of padding.
        own = getattr(tokenizer, "tokenizer", None)
        self._pad = int(getattr(own, "pad_token_id", 0) or 0)
        self._pad_ends = own is not None and getattr(own, "eos_token_id", None) == self._pad
        self.length = int(self.tokenize(["a"]).shape[1])
        self.image_width = self._measured()

    def _measured(self) -> int:
        """The width of image tokens: what comes out of one pass."""
        size = (1, self.geometry.height, self.geometry.width, 3)
        was = self.model.training
        self.model.eval()
        with torch.inference_mode():
            tokens = self.images(torch.zeros(size, dtype=torch.uint8), tokens=True).tokens
        self.model.train(was)
        assert tokens is not None
        return int(tokens.shape[2])

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return self.tokenizer(list(texts)).to(torch.int64)

    def embedding(self) -> nn.Module:
        if hasattr(self.text, "token_embedding"):
            return self.text.token_embedding
        return self.text.transformer.get_input_embeddings()

    def _input_type(self) -> Any:
        import open_clip

        return open_clip.get_input_dtype(self._precision) or torch.float32

    def _images(self, values: Tensor, tokens: bool) -> Encoded:
        if not tokens:
            return Encoded(self.model.encode_image(values, normalize=False).float())
        with caught(self._last()) as found:
            pooled = self.model.encode_image(values, normalize=False).float()
        states = found[0]
        if states.dim() == 4:  # (n, width, height, width) of a convolution
            states = states.flatten(2).transpose(1, 2)
        elif hasattr(self.model.visual, "class_embedding"):
            states = states[:, 1:]
        elif hasattr(self.model.visual, "trunk"):
            states = states[:, int(getattr(self.model.visual.trunk, "num_prefix_tokens", 0)) :]
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        return Encoded(pooled, states, mask)

    def _last(self) -> Any:
        """The module of the image tower whose output is its tokens."""
        visual = self.model.visual
        if hasattr(visual, "transformer"):
            return visual.transformer
        if hasattr(visual, "trunk"):
            return _blocks(visual.trunk)[-1]
        return visual.layer4

    def _texts(self, ids: Tensor, tokens: bool) -> Encoded:
        if not tokens:
            return Encoded(self.model.encode_text(ids, normalize=False).float())
        with caught(self.text.transformer) as found:
            pooled = self.model.encode_text(ids, normalize=False).float()
        states = getattr(found[0], "last_hidden_state", found[0])[:, : ids.shape[1]]
        mask = ids != self._pad
        if self._pad_ends:
            # The first padding token is the end of the text.
            mask = mask | torch.nn.functional.pad(mask[:, :-1], (1, 0), value=True)
        return Encoded(pooled, states, mask)

    def part(self, name: Literal["image", "text"]) -> Part:
        return self._image_part() if name == "image" else self._text_part()

    def _image_part(self) -> Part:
        visual = self.model.visual
        if hasattr(visual, "trunk"):
            trunk = visual.trunk
            pooling = [_of(trunk, "attn_pool"), _of(trunk, "head")]
            own = any(True for _ in visual.head.parameters())
            after = [_of(trunk, name) for name in _BEHIND] + [_of(trunk, "head"), visual.head]
            return Part([visual], _blocks(trunk), after, [visual.head] if own else pooling)
        if hasattr(visual, "transformer"):
            after = [_of(visual, name) for name in _BEHIND]
            return Part([visual], list(visual.transformer.resblocks), after, [visual.proj])
        blocks = [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
        return Part([visual], blocks, [], [visual.attnpool])

    def _text_part(self) -> Part:
        text = self.text
        if not hasattr(text, "token_embedding"):
            encoder = getattr(text.transformer, "encoder", text.transformer)
            blocks = next((list(getattr(encoder, n)) for n in ("layer", "block", "layers")
                           if hasattr(encoder, n)), [])  # fmt: skip
            return Part([text], blocks, [text.pooler], [text.proj])
        names = ("token_embedding", "positional_embedding", "cls_emb", "transformer")
        every = [_of(text, name) for name in (*names, "ln_final", "text_projection")]
        blocks = list(text.transformer.resblocks)
        return Part(every, blocks, [text.ln_final], [text.text_projection])

    def checkpointing(self) -> None:
        self.model.set_grad_checkpointing(True)

    def write(self, folder: str) -> None:
        weights = {
            name: value.detach().cpu().contiguous().clone()
            for name, value in sorted(_lora.merged(self).state_dict().items())
        }
        geometry = self.geometry
        config = {"model_cfg": dict(self._config.model), "preprocess_cfg": {
            "mean": list(geometry.mean),
            "std": list(geometry.std),
            "interpolation": geometry.interpolation,
            "resize_mode": geometry.resize_mode,
            "fill_color": geometry.fill,
        }}  # fmt: skip
        if self._config.preprocess.get("quick_gelu"):
            config["model_cfg"]["quick_gelu"] = True
        own = getattr(self.tokenizer, "tokenizer", None)
        if own is not None:
            own.save_pretrained(folder)
        _write(os.path.join(folder, "open_clip_model.safetensors"), save(weights))
        text = json.dumps(_plain(config), indent=2) + "\n"
        _write(os.path.join(folder, models.OPEN_CLIP_CONFIG), text.encode())


def _of(module: Any, name: str) -> Any:
    return getattr(module, name, None)


def _blocks(trunk: Any) -> list[Any]:
    for name in ("blocks", "stages", "layers"):
        found = getattr(trunk, name, None)
        if isinstance(found, (nn.ModuleList, nn.Sequential)) and len(found):
            return list(found)
    raise DatagenError(f"{type(trunk).__name__}: a tower whose blocks are not known")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _write(path: str, data: bytes) -> None:
    with store.writing(path) as file:
        file.write(data)


def load(
    ref: models.ModelRef, device: str, precision: str, trust_remote_code: bool
) -> OpenClipTowers:
    """The open_clip model of ``ref``. Raises DatagenError."""
    found = clip.load(ref, device=device, precision=precision, trust_remote_code=trust_remote_code)
    made = OpenClipTowers(found.model, found.tokenizer, clip.config(ref), precision, str(ref))
    made.to(device).eval()
    return made
