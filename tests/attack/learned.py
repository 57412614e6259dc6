"""Files of what was learned or computed, broken: weights of networks, boosters, arrays."""

import gzip
import io
import json
import pickle
import struct
from collections.abc import Callable
from typing import Any

import lightgbm as lgb
import numpy as np
import torch
from safetensors.torch import save

from attack.damage import Draw, Mutation, cut, flip, keep_head, replace, set_in_zip
from attack.formats import ANYTHING, DEEP, EITHER, REFUSED, Format, Mutations, as_text
from nuclei.candidates.boosters import TARGETS, pack_boosters, unpack_boosters
from nuclei.networks.encoder_decoder import read_state_dict
from nuclei.runs.files import read_arrays


class Code:
    """What a pickle runs when it is read by a reader that runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code of a pickle was run",)


def as_bytes(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def draw_weights() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(60.0).reshape(3, 20), "a.bias": torch.ones(3)}


def draw_boosters() -> bytes:
    rng = np.random.default_rng(3)
    x, settings = rng.random((60, 2)), {"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5}
    return pack_boosters({name: lgb.train(settings, lgb.Dataset(x, x[:, 0] + i), 1) for i, name in enumerate(TARGETS)})


def change_boosters(change: Callable[[dict[str, Any]], object]) -> Mutation:
    def mutate(rng: Draw, data: bytes) -> bytes:
        texts = json.loads(gzip.decompress(data))
        change(texts)
        return gzip.compress(json.dumps(texts).encode())

    return mutate


# Weights have no checksum of their own: the records of a run and a bundle have it.
WEIGHTS: Mutations = {
    **ANYTHING,
    "cut off": (REFUSED, cut),
    "a bit flipped": (EITHER, flip),
    "only a head": (REFUSED, keep_head),
}
SAFETENSORS = WEIGHTS | {
    "a huge header": (REFUSED, lambda rng, data: b"\xff" * 7 + b"\x7f" + data[8:]),
    "a header nested deeply": (REFUSED, lambda rng, data: struct.pack("<Q", DEEP) + b"[" * DEEP),
    "beyond its end": (REFUSED, replace(("[0,12]", "[0,99]"), ("[12,252]", "[12,999]"))),
}
PICKLES = WEIGHTS | {
    "code": (REFUSED, lambda rng, data: as_bytes(lambda file: torch.save({"a": Code()}, file))),
    "a pickle of old": (EITHER, lambda rng, data: cut(rng, pickle.dumps({"a": list(range(99))}, rng.randrange(6)))),
    "codes of a pickle": (REFUSED, lambda rng, data: b"\x80\x02" + bytes(rng.choices(b"}()tRq.bu0sNK", k=9)) + b"."),
    "a list": (REFUSED, lambda rng, data: as_bytes(lambda file: torch.save([1], file))),
}
BOOSTERS: Mutations = {
    **ANYTHING,
    "cut off": (REFUSED, cut),
    "a bit flipped": (EITHER, flip),
    "not gzipped": (REFUSED, lambda rng, data: gzip.decompress(data)),
    "one lost": (REFUSED, change_boosters(dict.popitem)),
    "a list": (REFUSED, lambda rng, data: gzip.compress(b"[1]")),
    "no text": (REFUSED, change_boosters(lambda texts: texts.update({TARGETS[0]: None}))),
    "a model cut off": (REFUSED, change_boosters(lambda texts: texts.update({TARGETS[0]: texts[TARGETS[0]][:-300]}))),
    "nested deeply": (REFUSED, lambda rng, data: gzip.compress(b"[" * 9999)),
    "more behind": (REFUSED, lambda rng, data: data + b"more"),
}
ARRAYS: Mutations = {
    **ANYTHING,
    "cut off": (REFUSED, cut),
    "a bit flipped": (EITHER, flip),
    "one array": (REFUSED, lambda rng, data: as_bytes(lambda file: np.save(file, np.ones(3)))),
    "objects": (REFUSED, lambda rng, data: as_bytes(lambda file: np.savez(file, a=np.array([Code()], object)))),
    "a huge size": (EITHER, set_in_zip(24, b"\xff\xff\xff\x7e")),
}
LEARNED = {
    "weights": Format(
        "a.safetensors",
        lambda: save(draw_weights()),
        lambda p: {key: as_text(value.numpy()) for key, value in read_state_dict(p).items()},
        SAFETENSORS,
    ),
    "weights of old": Format(
        "a.pth",
        lambda: as_bytes(lambda file: torch.save(draw_weights(), file)),
        lambda p: {key: as_text(value.numpy()) for key, value in read_state_dict(p).items()},
        PICKLES,
    ),
    "boosters": Format(
        "a.json.gz",
        draw_boosters,
        lambda p: {key: one.model_to_string() for key, one in unpack_boosters(p.read_bytes(), str(p)).items()},
        BOOSTERS,
    ),
    "arrays": Format(
        "a.npz",
        lambda: as_bytes(lambda file: np.savez_compressed(file, a=np.arange(60).reshape(3, 20), b=np.arange(5))),
        lambda p: {key: as_text(value) for key, value in read_arrays(p).items()},
        ARRAYS,
    ),
}
