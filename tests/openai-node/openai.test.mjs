// The daemon as the official OpenAI client for JavaScript sees it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { createInterface } from "node:readline";
import OpenAI from "openai";

// The test runs from the folder of its tools, which tells it where the programs and the models are.
const { CORTEX_TEST_DIST: dist, CORTEX_TEST_MODEL: weights, CORTEX_TEST_EMBEDDER: embedder } = process.env;
const model = "smollm2";
let folder, daemon, client;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), "cortex-node-"));
  daemon = spawn(
    join(dist, "cortex-server"),
    ["--config_file_path", join(folder, "rc"), "--data_folder_path", join(folder, "data"), "--host", "127.0.0.1", "--port", "0"],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  let address;
  for await (const line of createInterface({ input: daemon.stdout })) {
    address = `http://127.0.0.1:${line.split("Port: ")[1].trim()}`;
    break;
  }
  for (const [name, path] of [[model, weights], ["minilm", embedder]]) {
    const answer = await fetch(`${address}/v1/models/import`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: name, modelPath: path }),
    });
    assert.equal(answer.status, 200, await answer.text());
  }
  client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "none", maxRetries: 0 });
});

after(() => {
  daemon?.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

const ask = (text, more = {}) =>
  client.chat.completions.create({ model, messages: [{ role: "user", content: text }], temperature: 0, max_tokens: 60, ...more });

const weather = {
  type: "function",
  function: {
    name: "get_weather",
    strict: true,
    parameters: {
      type: "object",
      properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};

test("a chat is answered, whole and as a stream", async () => {
  const question = "What is the capital of France? Answer in one sentence.";
  const whole = await ask(question);
  assert.match(whole.choices[0].message.content, /Paris/);
  const stream = await ask(question, { stream: true, stream_options: { include_usage: true } });
  let text = "", usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage ??= chunk.usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("the client's own helper puts a streamed call together", async () => {
  const stream = client.chat.completions.stream({
    model, messages: [{ role: "user", content: "The weather in Rome?" }], tools: [weather], tool_choice: "required",
    parallel_tool_calls: false, max_tokens: 100, temperature: 0,
  });
  const message = (await stream.finalChatCompletion()).choices[0];
  assert.equal(message.finish_reason, "tool_calls");
  const [call] = message.message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  assert.match(JSON.parse(call.function.arguments).city, /^(Paris|Rome)$/);
});

test("tools run until the model has its answer", async () => {
  const first = await ask("The weather in Rome?", { tools: [weather], tool_choice: { type: "function", function: { name: "get_weather" } } });
  const said = first.choices[0].message;
  assert.equal(said.content, null);
  const answer = await client.chat.completions.create({
    model, temperature: 0, max_tokens: 40, tools: [weather], tool_choice: "none",
    messages: [
      { role: "user", content: "The weather in Rome?" }, said,
      { role: "tool", tool_call_id: said.tool_calls[0].id, content: "31 degrees" },
    ],
  });
  assert.ok(answer.choices[0].message.content);
});

test("a strict schema is followed", async () => {
  const schema = {
    type: "object", properties: { answer: { type: "boolean" }, reason: { type: "string", maxLength: 20 } },
    required: ["answer", "reason"], additionalProperties: false,
  };
  const answer = await ask("Is water wet?", {
    response_format: { type: "json_schema", json_schema: { name: "answer", strict: true, schema } }, max_tokens: 200,
  });
  const parsed = JSON.parse(answer.choices[0].message.content);
  assert.deepEqual(Object.keys(parsed), ["answer", "reason"]);
  assert.equal(typeof parsed.answer, "boolean");
});

test("probabilities and several answers", async () => {
  const answer = await ask("Hello", { logprobs: true, top_logprobs: 2, n: 2, max_tokens: 5 });
  assert.equal(answer.choices.length, 2);
  for (const { logprobs, message } of answer.choices) {
    assert.equal(logprobs.content.map(({ token }) => token).join(""), message.content);
    assert.ok(logprobs.content.every(({ top_logprobs: top }) => top.length === 2));
  }
});

test("vectors", async () => {
  const { data } = await client.embeddings.create({ model: "minilm", input: ["one", "two"] });
  assert.equal(data.length, 2);
  const length = Math.hypot(...data[0].embedding);
  assert.ok(Math.abs(length - 1) < 1e-4, `${length}`);
});

test("errors are typed", async () => {
  await assert.rejects(ask("x", { model: "nobody" }), OpenAI.NotFoundError);
  await assert.rejects(ask("x", { temperature: 99 }), (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
  const picture = [{ role: "user", content: [{ type: "image_url", image_url: { url: "data:image/png;base64,AAAA" } }] }];
  await assert.rejects(ask("x", { messages: picture }), OpenAI.BadRequestError);
});

test("a left stream frees its place", async () => {
  const stream = await ask("Write a long story.", { stream: true, max_tokens: 4000, ignore_eos: true });
  for await (const _ of stream) break;
  assert.match((await ask("What is the capital of France? Answer in one sentence.")).choices[0].message.content, /Paris/);
});
