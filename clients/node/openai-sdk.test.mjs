// The official OpenAI SDK for Node, unmodified, with its own defaults (two retries), against a running Tollgate.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import test from "node:test";
import OpenAI from "openai";

const URL = process.env.TOLLGATE_URL;
const CHAT = "gpt-4o-mini";
const EMBEDDING = "text-embedding-3-small";
const HELLO = [{ role: "user", content: "Say hello." }];
const WEATHER = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather in a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};

async function admin(method, path, body) {
  const answer = await fetch(`${URL}/admin/v1/${path}`, {
    method,
    headers: { authorization: `Bearer ${process.env.TOLLGATE_ADMIN_KEY}`, "content-type": "application/json" },
    body: body && JSON.stringify(body),
  });
  const text = await answer.text();
  assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
  return text ? JSON.parse(text) : null;
}

// A tenant of its own for a test, so that what is counted is the test's alone.
async function newTenant({ cap_usd = "1.00", ...limits } = {}) {
  const id = `node-${randomBytes(6).toString("hex")}`;
  await admin("POST", "tenants", { id, name: id });
  await admin("PUT", "budgets", { tenant: id, window: "lifetime", basis: "cost", cap_usd });
  const { key } = await admin("POST", "keys", { tenant: id, ...limits });
  return { id, key };
}

function clientOf(tenant, more = {}) {
  return new OpenAI({ baseURL: `${URL}/v1`, apiKey: tenant.key, ...more });
}

// How many requests the gateway has refused with this code since it started. Tests run one after the other.
async function refusals(code) {
  const text = await (await fetch(`${URL}/metrics`)).text();
  return Number(text.match(new RegExp(`^tollgate_refusals_total\\{code="${code}"\\} (\\d+)`, "m"))?.[1] ?? 0);
}

async function budgetOf(tenant) {
  const { data } = await admin("GET", `budgets?tenant=${tenant.id}`);
  assert.equal(data.length, 1);
  return data[0];
}

async function chunksOf(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const client = clientOf(await newTenant());

test("a chat is answered with usage and priced", async () => {
  const tenant = await newTenant();
  const { data, response, request_id } = await clientOf(tenant)
    .chat.completions.create({ model: CHAT, messages: HELLO, max_tokens: 32 })
    .withResponse();
  assert.equal(data.choices[0].message.role, "assistant");
  assert.ok(data.choices[0].message.content);
  assert.equal(data.usage.total_tokens, data.usage.prompt_tokens + data.usage.completion_tokens);
  assert.match(request_id, /^req_/);
  assert.ok(Number(response.headers.get("x-tollgate-cost-usd")) > 0);
  const budget = await budgetOf(tenant);
  assert.ok(BigInt(budget.posted_picousd) > 0n);
  assert.equal(budget.pending_picousd, "0");
});

test("a stream has no usage unless asked", async () => {
  const chunks = await chunksOf(await client.chat.completions.create({ model: CHAT, messages: HELLO, stream: true }));
  assert.ok(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""));
  assert.ok(["stop", "length"].includes(chunks.at(-1).choices[0].finish_reason));
  assert.ok(chunks.every((chunk) => !chunk.usage));
});

test("a stream ends with usage when asked", async () => {
  const chunks = await chunksOf(
    await client.chat.completions.create({
      model: CHAT,
      messages: HELLO,
      stream: true,
      stream_options: { include_usage: true },
    }),
  );
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.ok(chunks.at(-1).usage.completion_tokens > 0);
  assert.ok(chunks.slice(0, -1).every((chunk) => !chunk.usage));
});

test("a broken stream is an error and not a short answer", async () => {
  await assert.rejects(async () => {
    await chunksOf(await client.chat.completions.create({ model: `${CHAT}-cut`, messages: HELLO, stream: true }));
  }, OpenAI.APIError);
});

test("tools make the round trip", async () => {
  const messages = [{ role: "user", content: "What is the weather in Paris?" }];
  const asked = await client.chat.completions.create({
    model: CHAT,
    messages,
    tools: [WEATHER],
    tool_choice: "required",
  });
  const [call] = asked.choices[0].message.tool_calls;
  assert.equal(asked.choices[0].finish_reason, "tool_calls");
  assert.equal(call.function.name, "get_weather");
  JSON.parse(call.function.arguments);

  messages.push(asked.choices[0].message, { role: "tool", tool_call_id: call.id, content: '{"celsius": 21}' });
  const answer = await client.chat.completions.create({ model: CHAT, messages, tools: [WEATHER] });
  assert.ok(answer.choices[0].message.content);
});

test("tools are streamed in pieces", async () => {
  const stream = client.chat.completions.stream({
    model: CHAT,
    messages: [{ role: "user", content: "What is the weather in Paris?" }],
    tools: [WEATHER],
    tool_choice: "required",
  });
  const completion = await stream.finalChatCompletion();
  const [call] = completion.choices[0].message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  JSON.parse(call.function.arguments);
});

// A provider's, and one that runs here.
for (const model of [EMBEDDING, "hashed-ngrams"]) test(`embeddings of ${model} in floats and in base64`, async () => {
  // The SDK asks for base64 by itself and decodes it.
  const answer = await client.embeddings.create({ model, input: ["one", "two"] });
  assert.deepEqual(answer.data.map((item) => item.index), [0, 1]);
  assert.ok(answer.data[0].embedding.every((value) => typeof value === "number"));
  assert.ok(answer.usage.prompt_tokens > 0);

  const encoded = await client.embeddings.create({ model, input: "one", encoding_format: "base64" });
  assert.ok(Buffer.from(encoded.data[0].embedding, "base64").length > 0);
});

test("structured output is JSON of the shape asked for", async () => {
  const schema = {
    type: "object",
    properties: { city: { type: "string" }, celsius: { type: "integer" } },
    required: ["city", "celsius"],
    additionalProperties: false,
  };
  const answer = await client.chat.completions.create({
    model: CHAT,
    messages: HELLO,
    response_format: { type: "json_schema", json_schema: { name: "weather", strict: true, schema } },
  });
  const weather = JSON.parse(answer.choices[0].message.content);
  assert.equal(typeof weather.city, "string");
  assert.ok(Number.isInteger(weather.celsius));
});

test("models are listed", async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(ids.includes(CHAT) && ids.includes(EMBEDDING));
});

test("a budget refusal is not retried", async () => {
  const tenant = await newTenant({ cap_usd: "0.0000001" });
  const before = await refusals("budget_exceeded");
  await assert.rejects(clientOf(tenant).chat.completions.create({ model: CHAT, messages: HELLO }), (error) => {
    assert.ok(error instanceof OpenAI.RateLimitError);
    assert.equal(error.code, "budget_exceeded");
    assert.equal(error.headers.get("x-should-retry"), "false");
    return true;
  });
  assert.equal(await refusals("budget_exceeded"), before + 1, "asked once, refused once");
  assert.equal((await budgetOf(tenant)).posted_picousd, "0");
});

test("a rate refusal is retried as told and then answered", async () => {
  const limited = clientOf(await newTenant({ requests_per_minute: 60 }));
  const before = await refusals("rate_limited");
  // A minute's allowance may come at once; whoever asks on is refused, and answered after the wait that the refusal named.
  for (let asked = 0; asked < 100; asked += 1) {
    assert.ok((await limited.chat.completions.create({ model: CHAT, messages: HELLO })).choices);
    const refused = (await refusals("rate_limited")) - before;
    if (refused > 0) return assert.equal(refused, 1, "the wait that was named is enough");
  }
  assert.fail("a hundred requests of sixty a minute were never refused");
});

test("a wrong key is an authentication error", async () => {
  const stranger = clientOf({ key: "tg_wrong" });
  await assert.rejects(stranger.chat.completions.create({ model: CHAT, messages: HELLO }), (error) => {
    assert.ok(error instanceof OpenAI.AuthenticationError);
    assert.equal(error.code, "invalid_api_key");
    return true;
  });
});

test("an unknown model is not found", async () => {
  await assert.rejects(client.chat.completions.create({ model: "no-such-model", messages: HELLO }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
});
