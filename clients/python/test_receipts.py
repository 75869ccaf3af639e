"""Receipts are verified by somebody else's code: PyJWT, with the published keys and nothing of ours."""

import base64
import hashlib
import json
import urllib.request

import jwt
import pytest
from openai import OpenAI

from tollgate import URL, Tenant


def fetch(path, key=None):
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with urllib.request.urlopen(urllib.request.Request(f"{URL}{path}", headers=headers), timeout=30) as answer:
        return json.loads(answer.read())


def verified(jws, keys):
    return jwt.decode(jws, keys[jwt.get_unverified_header(jws)["kid"]], algorithms=["EdDSA"])


@pytest.fixture(scope="module")
def receipt():
    tenant = Tenant()
    client = OpenAI(base_url=f"{URL}/v1", api_key=tenant.key)
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "Say hello."}]
    )
    return fetch(f"/v1/receipts/{raw.request_id}", tenant.key) | {"asked": (tenant.id, raw.parse().usage)}


@pytest.fixture(scope="module")
def keys():
    return jwt.PyJWKSet.from_dict(fetch("/v1/receipts/keys"))


def test_a_receipt_is_verified_by_a_stranger_s_library(receipt, keys):
    tenant, usage = receipt["asked"]
    statement = verified(receipt["jws"], keys)
    assert statement == receipt["statement"]
    assert statement["format"] == "tollgate-receipt/1"
    assert (statement["tenant"], statement["final"], statement["state"]) == (tenant, True, "posted")
    assert statement["tokens"]["input"] == usage.prompt_tokens
    assert statement["tokens"]["output"] == usage.completion_tokens
    held, posted = int(statement["hold"]["cost_picousd"]), int(statement["cost_picousd"])
    assert held == posted + int(statement["hold"]["released"]["cost_picousd"])


def test_the_key_s_id_is_what_it_says():
    for key in fetch("/v1/receipts/keys")["keys"]:
        public = base64.urlsafe_b64decode(key["x"] + "=")
        assert key["kid"] == hashlib.sha256(public).hexdigest()[:16]


def test_a_changed_receipt_is_refused_by_it(receipt, keys):
    header, payload, signature = receipt["jws"].split(".")
    statement = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    statement["charge_usd"] = "0.00"
    changed = base64.urlsafe_b64encode(json.dumps(statement).encode()).rstrip(b"=").decode()
    with pytest.raises(jwt.InvalidSignatureError):
        verified(f"{header}.{changed}.{signature}", keys)
