#!/usr/bin/env python3
"""CPU time of an embedding: Tollgate's encoder against onnxruntime, in f32 and int8, and candle in f32, one thread each, in turn.

    clients/runtime/bench.py FOLDER        a sentence encoder as Hugging Face ships it

Makes a Python environment and builds the encoder's example under target/ on its first run. Of each combination the best of
several rounds counts, by the CPU time of the process, so that who else uses the machine shows little. onnxruntime is given the
graph our converter writes for others (fused attention and normalisation), and the int8 one its own quantizer makes of it. Ends
with a line of JSON; the ratio there is our int8 against the best of the others, the worst of batches of 8 and 32.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
VENV = TARGET / "clients" / "runtime"
WANTED = pathlib.Path(__file__).with_name("requirements.txt")
ROUNDS = int(os.environ.get("ROUNDS", "5"))
LENGTHS = (20, 128)
BATCHES = (1, 8, 32)
TOKENS_MEASURED = 4096


def in_environment():
    """Starts again with the packages that are wanted, installed only when they have changed."""
    installed = VENV / "installed.txt"
    if not installed.exists() or installed.read_text() != WANTED.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        pip = [VENV / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r", WANTED]
        subprocess.run(pip, check=True)
        installed.write_text(WANTED.read_text())
    # By its whole path: that is how Python finds the environment it belongs to.
    python = str(VENV / "bin" / "python")
    os.execv(python, [python, "-B", __file__, *sys.argv[1:]])


class Ours:
    """The example, asked line by line."""

    def __init__(self, folder, onnx):
        build = ["cargo", "build", "--release", "--locked", "-p", "tollgate-runtime", "--example", "embed"]
        subprocess.run(build, cwd=ROOT, check=True)
        self.program = TARGET / "release" / "examples" / "embed"
        command = [self.program, "serve", folder, onnx]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n", "the example did not start"

    def measure(self, precision, batch, length):
        self.process.stdin.write(f"{precision} {batch} {length}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def compare(self, folder):
        texts = pathlib.Path(os.environ.get("TOLLGATE_DATA_DIR", "-")) / "datasets" / "banking77" / "test.csv"
        command = [self.program, "compare", folder] + ([texts] if texts.exists() else [])
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        print("\n".join(lines[:-1]))
        return json.loads(lines[-1])


class Candle:
    """A program of a workspace of its own, asked line by line."""

    def __init__(self, folder):
        manifest = pathlib.Path(__file__).with_name("candle") / "Cargo.toml"
        build = ["cargo", "build", "--release", "--locked", "--manifest-path", manifest, "--target-dir", TARGET / "candle"]
        # As fast as this machine can: ours looks at run time what there is.
        subprocess.run(build, check=True, env={**os.environ, "RUSTFLAGS": "-C target-cpu=native"})
        command = [TARGET / "candle" / "release" / "tollgate-beside-candle", folder]
        one_thread = {**os.environ, "RAYON_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=one_thread)
        assert self.process.stdout.readline() == "ready\n", "candle did not start"

    def measure(self, batch, length):
        self.process.stdin.write(f"{batch} {length}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


class Onnxruntime:
    def __init__(self, onnx):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])

    def measure(self, batch, length):
        import numpy

        ids = numpy.full((batch, length), 4003, numpy.int32)
        ids[:, 0], ids[:, -1] = 101, 102
        given = {"input_ids": ids, "attention_mask": numpy.ones_like(ids)}
        self.session.run(None, given)
        times = max(1, TOKENS_MEASURED // (batch * length))
        before = time.process_time()
        for _ in range(times):
            self.session.run(None, given)
        return (time.process_time() - before) * 1e3 / (times * batch)


def quantized(onnx):
    """By onnxruntime's own quantizer, as its documentation suggests for transformers: dynamic, by channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = onnx.with_name("int8.onnx")
    # The fused operators are unknown to the inference of types that it relies on: all it cannot tell is float (1).
    more = {"DefaultTensorType": 1}
    quantize_dynamic(onnx, path, weight_type=QuantType.QInt8, per_channel=True, extra_options=more)
    return path


def main(folder):
    onnx = VENV / "f32.onnx"
    ours = Ours(folder, onnx)
    others = {
        "onnxruntime int8": Onnxruntime(quantized(onnx)),
        "onnxruntime f32": Onnxruntime(onnx),
        "candle f32": Candle(folder),
    }
    who = {
        "tollgate int8": lambda *size: ours.measure("int8", *size),
        "tollgate f32": lambda *size: ours.measure("f32", *size),
        **{name: other.measure for name, other in others.items()},
    }
    sizes = [(batch, length) for length in LENGTHS for batch in BATCHES]
    best = {name: dict.fromkeys(sizes, float("inf")) for name in who}
    for _ in range(ROUNDS):
        for size in sizes:
            for name, measure in who.items():
                best[name][size] = min(best[name][size], measure(*size))

    print(f"\nCPU ms per embedding, one thread, best of {ROUNDS} rounds")
    print(" " * 20 + "".join(f"{f'{length} tok x {batch}':>14}" for batch, length in sizes))
    for name, found in best.items():
        print(f"{name:20}" + "".join(f"{found[size]:14.2f}" for size in sizes))
    peers = {size: min(best[name][size] for name in others) for size in sizes}
    ratios = {size: best["tollgate int8"][size] / peers[size] for size in sizes}
    print(f"{'ratio to the best':20}" + "".join(f"{ratios[size]:14.2f}" for size in sizes) + "\n")
    cosines = ours.compare(folder)
    worst = max(ratio for (batch, _), ratio in ratios.items() if batch >= 8)
    print(json.dumps({"embedding_cpu_ratio": round(worst, 3), **cosines}))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: clients/runtime/bench.py FOLDER")
    if pathlib.Path(sys.prefix).resolve() != VENV:
        in_environment()
    main(pathlib.Path(sys.argv[1]))
