import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { key, looksLikeWeather, model, question, run, system, url, weather } from "./checks.mjs";

const client = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0, timeout: 120_000 });
const messages = [{ role: "user", content: question }];
const greedy = { model, system, messages, max_tokens: 24, temperature: 0 };
const called = {
  model,
  messages: [{ role: "user", content: "How warm is it in Paris, in celsius?" }],
  max_tokens: 100,
  temperature: 0,
  tools: [{ name: "weather", input_schema: weather }],
  tool_choice: { type: "tool", name: "weather", disable_parallel_tool_use: true },
};

await run({
  async messages() {
    const answer = await client.messages.create(greedy);
    assert.match(answer.content[0].text, /Paris/);
    assert.equal(answer.stop_reason, "end_turn");
  },
  async stream() {
    const whole = await client.messages.create(greedy);
    const stream = client.messages.stream(greedy);
    const deltas = [];
    stream.on("text", (delta) => deltas.push(delta));
    const final = await stream.finalMessage();
    assert.equal(deltas.join(""), whole.content[0].text);
    assert.equal(final.content[0].text, whole.content[0].text);
    assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
  },
  async tools() {
    const whole = await client.messages.create(called);
    assert.equal(whole.stop_reason, "tool_use");
    const final = await client.messages.stream(called).finalMessage();
    for (const answer of [whole, final]) looksLikeWeather(answer.content.find(({ type }) => type === "tool_use").input);
  },
  async count_tokens() {
    const counted = await client.messages.countTokens({ model, system, messages });
    const { usage } = await client.messages.create(greedy);
    assert.equal(counted.input_tokens, usage.input_tokens + usage.cache_read_input_tokens);
  },
  async errors() {
    await assert.rejects(client.messages.create({ ...greedy, model: "nothing:here" }), Anthropic.NotFoundError);
    await assert.rejects(client.messages.create({ ...greedy, temperature: 9 }), Anthropic.BadRequestError);
  },
});
