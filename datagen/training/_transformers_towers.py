"""The CLIP and SigLIP classes of transformers as towers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from datagen import libraries, models, store, vision
from datagen.errors import DatagenError
from datagen.training import _lora
from datagen.training.towers import Encoded, Part, Towers

#: Kinds of models whose texts are read alike with and without a mask of their padding.
KINDS = ("clip", "siglip")
_WEIGHTS = ("*.safetensors", "*.bin")
_BESIDE = ("*.json", "*.txt", "*.model")


class TransformersTowers(Towers):
    """A CLIPModel or SiglipModel."""

    def __init__(self, model: Any, tokenizer: Any, place: str, reference: str) -> None:
        geometry = vision.geometry(models.parse(f"file:{place}"))
        super().__init__(model, geometry, reference)
        self.tokenizer = tokenizer
        # Kept: the model may be written where it was read.
        self._preprocessor = store.read_bytes(os.path.join(place, vision.PREPROCESSOR))
        text, image = model.config.text_config, model.config.vision_config
        self.length = int(text.max_position_embeddings)
        self.text_width = self.word_width = int(text.hidden_size)
        self.image_width = int(image.hidden_size)
        self._classes = int(model.config.model_type == "clip")
        heads = getattr(model, "text_projection", None) or model.text_model.head
        self.width = int(heads.out_features)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        found = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        return found["input_ids"]

    def embedding(self) -> nn.Module:
        return self.model.text_model.embeddings.token_embedding

    def _input_type(self) -> Any:
        return self.model.dtype

    def _images(self, values: Tensor, tokens: bool) -> Encoded:
        found = self.model.vision_model(pixel_values=values)
        pooled = found.pooler_output
        if hasattr(self.model, "visual_projection"):
            pooled = self.model.visual_projection(pooled)
        if not tokens:
            return Encoded(pooled.float())
        states = found.last_hidden_state[:, self._classes :]
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        return Encoded(pooled.float(), states, mask)

    def _texts(self, ids: Tensor, tokens: bool) -> Encoded:
        found = self.model.text_model(input_ids=ids)
        pooled = found.pooler_output
        if hasattr(self.model, "text_projection"):
            pooled = self.model.text_projection(pooled)
        if not tokens:
            return Encoded(pooled.float())
        mask = ids != self.tokenizer.pad_token_id
        if self.tokenizer.pad_token_id == self.tokenizer.eos_token_id:
            # The first padding token is the end of the text.
            mask = mask | nn.functional.pad(mask[:, :-1], (1, 0), value=True)
        return Encoded(pooled.float(), found.last_hidden_state, mask)

    def part(self, name: Literal["image", "text"]) -> Part:
        last = getattr(
            self.model, "visual_projection" if name == "image" else "text_projection", None
        )
        if name == "image":
            tower = self.model.vision_model
            after = [tower.post_layernorm, getattr(tower, "head", None)]
            projection = last or after[1]
        else:
            tower = self.model.text_model
            after = [tower.final_layer_norm]
            projection = last or tower.head
        return Part([tower, last], list(tower.encoder.layers), after, [projection])

    def checkpointing(self) -> None:
        self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def write(self, folder: str) -> None:
        _lora.merged(self).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        store.write_bytes(os.path.join(folder, vision.PREPROCESSOR), self._preprocessor)


def load(ref: models.ModelRef, device: str, precision: str) -> TransformersTowers:
    """The model of ``ref``. Raises DatagenError where it is no CLIP and no SigLIP."""
    place = ref.folder or models.snapshot(ref.name, ref.tag, _WEIGHTS, _BESIDE)
    kind = _kind(ref, place)
    if kind not in KINDS:
        raise DatagenError(
            f"model '{ref}': a '{kind}', where one of {', '.join(KINDS)} is expected; "
            "name other dual encoders by open_clip:"
        )
    with libraries.loading(str(ref), ref.repository):
        libraries.prepare()
        import transformers

        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        made = {"clip": transformers.CLIPModel, "siglip": transformers.SiglipModel}[kind]
        model = made.from_pretrained(place, dtype=kinds[precision], local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, local_files_only=True)
    towers = TransformersTowers(model, tokenizer, place, str(ref))
    towers.to(device).eval()
    return towers


def _kind(ref: models.ModelRef, place: str) -> str:
    path = os.path.join(place, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            return str(json.load(file).get("model_type"))
    except OSError as error:
        raise DatagenError(f"model '{ref}': {path} is not there") from error
    except (ValueError, AttributeError) as error:
        raise DatagenError(f"{path}: not a configuration of transformers ({error})") from error
