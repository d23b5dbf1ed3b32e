import assert from "node:assert/strict";
import { Ollama } from "ollama";
import { embedder, key, model, ollamaUrl, question, run, system } from "./checks.mjs";

const client = new Ollama({ host: ollamaUrl, headers: { Authorization: `Bearer ${key}` } });
const messages = [{ role: "system", content: system }, { role: "user", content: question }];
const options = { temperature: 0, num_predict: 24 };

async function names() {
  return (await client.list()).models.map((entry) => entry.model);
}

await run({
  async chat() {
    const whole = await client.chat({ model, messages, options });
    assert.match(whole.message.content, /Paris/);
    const parts = [];
    for await (const part of await client.chat({ model, messages, options, stream: true })) parts.push(part);
    assert.equal(parts.map((part) => part.message.content).join(""), whole.message.content);
    assert.equal(parts.at(-1).done_reason, whole.done_reason);
  },
  async generate() {
    const asked = { model, system, prompt: question, options };
    const whole = await client.generate(asked);
    let streamed = "";
    for await (const part of await client.generate({ ...asked, stream: true })) streamed += part.response;
    assert.equal(streamed, whole.response);
  },
  async embed() {
    const { embeddings } = await client.embed({ model: embedder, input: ["A cat.", "A dog."] });
    assert.deepEqual(embeddings.map((vector) => vector.length), [384, 384]);
  },
  async models() {
    assert.ok((await names()).includes(model));
    assert.ok((await client.show({ model })).capabilities.includes("completion"));
    assert.ok((await client.ps()).models.some((entry) => entry.model === model));
  },
  async names() {
    await client.copy({ source: model, destination: "node:copy" });
    const progress = [];
    const created = await client.create({ model: "node:made", from: model, system: "You are a pirate.", stream: true });
    for await (const part of created) progress.push(part.status);
    assert.equal(progress.at(-1), "success");
    assert.ok((await names()).includes("node:copy"));
    for (const name of ["node:copy", "node:made"]) await client.delete({ model: name });
    assert.ok(!(await names()).includes("node:copy"));
  },
  async abort() {
    const stream = await client.generate({ model, prompt: "Count.", stream: true, options: { num_predict: 4000 } });
    await assert.rejects(async () => {
      for await (const _ of stream) stream.abort();
    }, { name: "AbortError" });
    assert.match((await client.chat({ model, messages, options })).message.content, /Paris/);
  },
});
