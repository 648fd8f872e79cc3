"""A space of one's own, outside the package: what a TensorFlow Lite image classifier sees.

In a recipe:

    - embed: {op: "mobilenet_space.py:MobileNet", space: photo, weights: /models/mobilenet.tflite}

The vector of an image is the pooled feature of MobileNetV2 (Sandler et al. 2018,
arXiv:1801.04381), 1280 wide, just before its classifier. Needs ``pip install ai-edge-litert``.
"""

import os
import warnings

import numpy as np
import pyarrow as pa
from PIL import ImageOps

from datagen import media, models, store
from datagen.step import Embedder, Resources, Settings


class MobileNetSettings(Settings):
    """space: name of the space; weights: path of a .tflite file; layer: the tensor to read."""

    space: str
    weights: str
    layer: str = "MobilenetV2/Logits/AvgPool"


class MobileNet(Embedder[MobileNetSettings]):
    """One unit vector per image. The interpreter is made in ``open``, as it cannot be pickled."""

    Settings = MobileNetSettings

    def needs(self, level):
        return {"items.media"}

    def columns(self, level):
        return ["id", "media"]

    def resources(self):
        return Resources(batch_size=32, actor=True)

    def revision(self):
        return store.file_hash(self.settings.weights)

    def check(self):
        if not os.path.isfile(self.settings.weights):
            yield f"weights: {self.settings.weights}: no such file"

    def open(self, context):
        from ai_edge_litert.interpreter import Interpreter

        with warnings.catch_warnings():
            # Inner tensors are kept for debugging, says the library; here they are the result.
            warnings.simplefilter("ignore")
            self.net = Interpreter(
                self.settings.weights, experimental_preserve_all_tensors=True, num_threads=1
            )
        self.net.allocate_tensors()
        self.input = self.net.get_input_details()[0]
        self.layer = next(
            tensor
            for tensor in self.net.get_tensor_details()
            if tensor["name"] == self.settings.layer
        )

    def prepare(self, rows):
        pixels, verdicts = [], []
        for image in rows["media"].to_pylist():
            try:
                picture = ImageOps.fit(media.image(image), (224, 224))
                pixels.append(np.asarray(picture).tobytes())
                verdicts.append(("kept", None, None))
            except media.MediaError as error:
                pixels.append(None)
                verdicts.append(("failed", error.rule, error.detail))
        verdict, rule, detail = zip(*verdicts, strict=True)
        return pa.table(
            {
                "id": rows["id"],
                "pixels": pa.array(pixels, pa.binary()),
                "verdict": pa.array(verdict, pa.string()),
                "rule": pa.array(rule, pa.string()),
                "detail": pa.array(detail, pa.string()),
            }
        )

    def __call__(self, rows):
        vectors = [
            None if image is None else self.vector(image) for image in rows["pixels"].to_pylist()
        ]
        width = int(self.layer["shape"][-1])
        column = pa.array(vectors, pa.list_(pa.float32(), width))
        return rows.drop_columns(["pixels"]).append_column("vector", column)

    def vector(self, image):
        """The unit vector of 224 x 224 RGB bytes."""
        pixels = np.frombuffer(image, np.uint8).reshape(1, 224, 224, 3)
        self.net.set_tensor(self.input["index"], pixels)
        self.net.invoke()
        scale, zero = self.layer["quantization"]
        feature = self.net.get_tensor(self.layer["index"]).astype(np.float32).reshape(1, -1)
        return models.unit_vectors((feature - zero) * scale)[0]
