"""The shipped policies are asked by somebody else's engine, too: rego-cpp, by its Python binding. Both say the same."""

import json
import os
import pathlib
import random
import subprocess

import pytest
import regopy

POLICIES = pathlib.Path(__file__).parents[2] / "policies"
SEED = 20261126
ASKED = 150
# Each value may also be missing.
VALUES = {
    "surface": ["chat", "embeddings", "speech"],
    "route": ["gpt-4o-mini", "gpt-4o", "text-embedding-3-small", ""],
    "region": ["eu", "us"],
    "choices": [0, 1, 2, 8, 9],
    "images": [0, 1, 20, 21],
    "input_bytes": [0, 20_000, 20_001, 4_000_000, 4_000_001],
}
BUNDLES = sorted(path for path in POLICIES.iterdir() if path.is_dir())


def asked():
    dice = random.Random(SEED)
    for _ in range(ASKED):
        fields = {name: dice.choice([*values, *values, None]) for name, values in VALUES.items()}
        yield {"request": {name: value for name, value in fields.items() if value is not None}}


def engine(bundle):
    rego = regopy.Interpreter()
    for path in sorted(bundle.rglob("*.rego")):
        if not path.name.endswith("_test.rego"):
            rego.add_module(path.name, path.read_text())
    for path in bundle.rglob("data.json"):
        data = json.loads(path.read_text())
        for folder in reversed(path.relative_to(bundle).parts[:-1]):
            data = {folder: data}
        rego.add_data(data)
    return rego


def their_decision(rego, document):
    rego.set_input(document)
    said = json.loads(str(rego.query("data.tollgate.admission")))["expressions"][0]
    if said.get("allow") is True and not said["deny"]:
        return {"allowed": True, "obligations": said.get("obligations", {})}
    return {"allowed": False, "deny": sorted(said["deny"])}


def sorted_lists(value):
    if isinstance(value, dict):
        return {name: sorted_lists(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return sorted((sorted_lists(inner) for inner in value), key=json.dumps)
    return value


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_another_engine_decides_the_same(bundle, tmp_path):
    documents = list(asked())
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_text("".join(json.dumps(document) + "\n" for document in documents))
    tollgate = [os.environ["TOLLGATE_BIN"], "policy", "eval", str(bundle), str(inputs)]
    ours = subprocess.run(tollgate, check=True, capture_output=True, text=True).stdout.splitlines()
    rego = engine(bundle)
    allowed = 0
    for document, line in zip(documents, ours, strict=True):
        our, their = json.loads(line), their_decision(rego, document)
        assert sorted_lists(our) == sorted_lists(their), document
        allowed += our["allowed"]
    assert 0 < allowed < ASKED, "both answers occur"
