"""The official OpenAI SDK for Python, unmodified, with its own defaults (two retries), against a running Tollgate."""

import base64
import json

import openai
import pytest
from openai import OpenAI

from tollgate import URL, Tenant, refusals

CHAT = "gpt-4o-mini"
EMBEDDING = "text-embedding-3-small"
HELLO = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def client_of(tenant, **more):
    return OpenAI(base_url=f"{URL}/v1", api_key=tenant.key, **more)


@pytest.fixture(scope="module")
def client():
    """For tests that only ask and read."""
    return client_of(Tenant())


def test_a_chat_is_answered_with_usage_and_priced():
    tenant = Tenant()
    raw = client_of(tenant).chat.completions.with_raw_response.create(model=CHAT, messages=HELLO, max_tokens=32)
    answer = raw.parse()
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert raw.request_id.startswith("req_")
    assert float(raw.headers["x-tollgate-cost-usd"]) > 0
    assert tenant.budget()["posted_picousd"] > 0
    assert tenant.budget()["pending_picousd"] == 0


def test_the_same_under_the_tenants_own_path():
    tenant = Tenant()
    client = OpenAI(base_url=f"{URL}/t/{tenant.id}/v1", api_key=tenant.key)
    assert client.chat.completions.create(model=CHAT, messages=HELLO).choices[0].message.content
    stranger = OpenAI(base_url=f"{URL}/t/{Tenant().id}/v1", api_key=tenant.key)
    with pytest.raises(openai.NotFoundError):
        stranger.chat.completions.create(model=CHAT, messages=HELLO)


def test_a_stream_has_no_usage_unless_asked(client):
    chunks = list(client.chat.completions.create(model=CHAT, messages=HELLO, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_ends_with_usage_when_asked(client):
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model=CHAT, messages=HELLO, stream=True, stream_options=options))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_is_paid_for():
    tenant = Tenant()
    for _ in client_of(tenant).chat.completions.create(model=CHAT, messages=HELLO, stream=True):
        pass
    budget = tenant.budget()
    assert budget["posted_picousd"] > 0
    assert budget["pending_picousd"] == 0


def test_a_broken_stream_is_an_error_and_not_a_short_answer(client):
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model=f"{CHAT}-cut", messages=HELLO, stream=True))


def test_tools_make_the_round_trip(client):
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked = client.chat.completions.create(model=CHAT, messages=messages, tools=[WEATHER], tool_choice="required")
    (call, *_) = asked.choices[0].message.tool_calls
    assert asked.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "get_weather"
    json.loads(call.function.arguments)

    messages += [
        asked.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"celsius": 21}'},
    ]
    answer = client.chat.completions.create(model=CHAT, messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content


def test_tools_are_streamed_in_pieces(client):
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    with client.chat.completions.stream(
        model=CHAT, messages=messages, tools=[WEATHER], tool_choice="required"
    ) as stream:
        completion = stream.get_final_completion()
    (call, *_) = completion.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    json.loads(call.function.arguments)


# A provider's, and one that runs here.
@pytest.mark.parametrize("model", [EMBEDDING, "hashed-ngrams"])
def test_embeddings_in_floats_and_in_base64(client, model):
    # The SDK asks for base64 by itself and decodes it.
    answer = client.embeddings.create(model=model, input=["one", "two"])
    assert [item.index for item in answer.data] == [0, 1]
    assert all(isinstance(value, float) for value in answer.data[0].embedding)
    assert answer.usage.prompt_tokens > 0

    encoded = client.embeddings.create(model=model, input="one", encoding_format="base64")
    assert base64.b64decode(encoded.data[0].embedding)


def test_structured_output_is_json_of_the_shape_asked_for(client):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "celsius": {"type": "integer"}},
        "required": ["city", "celsius"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=CHAT,
        messages=HELLO,
        response_format={"type": "json_schema", "json_schema": {"name": "weather", "strict": True, "schema": schema}},
    )
    weather = json.loads(answer.choices[0].message.content)
    assert isinstance(weather["city"], str)
    assert isinstance(weather["celsius"], int)


def test_models_are_listed(client):
    assert {CHAT, EMBEDDING} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(CHAT).object == "model"


def test_a_budget_refusal_is_not_retried():
    tenant = Tenant(cap_usd="0.0000001")
    before = refusals("budget_exceeded")
    with pytest.raises(openai.RateLimitError) as refusal:
        client_of(tenant).chat.completions.create(model=CHAT, messages=HELLO)
    assert refusal.value.code == "budget_exceeded"
    assert refusal.value.response.headers["x-should-retry"] == "false"
    assert refusals("budget_exceeded") == before + 1, "asked once, refused once"
    assert tenant.budget()["posted_picousd"] == 0


def test_a_rate_refusal_is_retried_as_told_and_then_answered():
    client = client_of(Tenant(requests_per_minute=60))
    before = refusals("rate_limited")
    # A minute's allowance may come at once; whoever asks on is refused, and answered after the wait that the refusal named.
    for _ in range(100):
        assert client.chat.completions.create(model=CHAT, messages=HELLO).choices
        if refusals("rate_limited") > before:
            assert refusals("rate_limited") == before + 1, "the wait that was named is enough"
            return
    pytest.fail("a hundred requests of sixty a minute were never refused")


def test_without_retries_a_rate_refusal_says_when_to_come_back():
    client = client_of(Tenant(requests_per_minute=1), max_retries=0)
    client.chat.completions.create(model=CHAT, messages=HELLO)
    with pytest.raises(openai.RateLimitError) as refusal:
        for _ in range(5):
            client.chat.completions.create(model=CHAT, messages=HELLO)
    assert refusal.value.code == "rate_limited"
    headers = refusal.value.response.headers
    assert 0 < float(headers["retry-after-ms"]) <= 60_000
    assert 0 < int(headers["retry-after"]) <= 60


def test_a_wrong_key_is_an_authentication_error():
    with pytest.raises(openai.AuthenticationError) as refusal:
        OpenAI(base_url=f"{URL}/v1", api_key="tg_wrong").chat.completions.create(model=CHAT, messages=HELLO)
    assert refusal.value.code == "invalid_api_key"


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as refusal:
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    assert refusal.value.code == "model_not_found"


def test_a_malformed_request_is_a_bad_request(client):
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model=CHAT, messages="not a list")
    assert refusal.value.code == "invalid_request"
