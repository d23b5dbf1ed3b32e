import assert from "node:assert/strict";
import OpenAI from "openai";
import { embedder, key, looksLikeWeather, model, question, run, system, url, weather } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0, timeout: 120_000 });
const messages = [{ role: "system", content: system }, { role: "user", content: question }];
const greedy = { model, messages, temperature: 0, max_tokens: 24 };

await run({
  async models() {
    const names = [];
    for await (const entry of client.models.list()) names.push(entry.id);
    assert.ok(names.includes(model) && names.includes(embedder));
  },
  async chat() {
    const answer = await client.chat.completions.create(greedy);
    assert.match(answer.choices[0].message.content, /Paris/);
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  },
  async stream() {
    const whole = await client.chat.completions.create(greedy);
    const stream = client.chat.completions.stream(greedy);
    const deltas = [];
    stream.on("content", (delta) => deltas.push(delta));
    const final = await stream.finalChatCompletion();
    assert.equal(deltas.join(""), whole.choices[0].message.content);
    assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
    const left = await client.chat.completions.create({ ...greedy, stream: true, max_tokens: 4000, ignore_eos: true });
    for await (const _ of left) break;
  },
  async tools() {
    const functions = [];
    const tool = { name: "weather", parameters: weather, parse: JSON.parse, function: (given) => functions.push(given) };
    const runner = client.chat.completions.runTools({
      model,
      messages: [{ role: "user", content: "How warm is it in Paris, in celsius?" }],
      temperature: 0,
      max_tokens: 100,
      parallel_tool_calls: false,
      tools: [{ type: "function", function: tool }],
      tool_choice: { type: "function", function: { name: "weather" } },
    });
    await runner.done();
    assert.equal(functions.length, 1);
    looksLikeWeather(functions[0]);
  },
  async completions() {
    const asked = { model, prompt: "The capital of France is", temperature: 0, max_tokens: 8 };
    const whole = await client.completions.create(asked);
    const parts = [];
    for await (const part of await client.completions.create({ ...asked, stream: true })) {
      if (part.choices.length) parts.push(part.choices[0].text);
    }
    assert.ok(whole.choices[0].text);
    assert.equal(parts.join(""), whole.choices[0].text);
  },
  async responses() {
    const asked = { model, instructions: system, input: question, temperature: 0 };
    const whole = await client.responses.create(asked);
    assert.match(whole.output_text, /Paris/);
    const stream = client.responses.stream(asked);
    const final = await stream.finalResponse();
    assert.equal(final.output_text, whole.output_text);
    assert.equal((await client.responses.retrieve(whole.id)).output_text, whole.output_text);
    await client.responses.delete(whole.id);
    await assert.rejects(client.responses.retrieve(whole.id), OpenAI.NotFoundError);
  },
  async embeddings() {
    const packed = await client.embeddings.create({ model: embedder, input: ["A cat sat on the mat."] });
    const plain = await client.embeddings.create({
      model: embedder,
      input: ["A cat sat on the mat."],
      encoding_format: "float",
    });
    assert.equal(packed.data[0].embedding.length, 384);
    packed.data[0].embedding.forEach((value, at) => assert.ok(Math.abs(value - plain.data[0].embedding[at]) < 1e-6));
  },
  async errors() {
    await assert.rejects(client.chat.completions.create({ ...greedy, temperature: 9 }), (error) => {
      return error instanceof OpenAI.BadRequestError && error.param === "temperature";
    });
    const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: "wrong", maxRetries: 0 });
    await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
  },
});
