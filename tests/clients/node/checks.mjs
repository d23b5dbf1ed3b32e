// What the scripts of all Node clients share: where the server is, and a check that says what was wrong.
import assert from "node:assert/strict";

export const { URL: url, OLLAMA_URL: ollamaUrl, KEY: key, SYSTEM: system, MODEL: model, EMBEDDER: embedder } = process.env;
export const question = "What is the capital of France?";
export const weather = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 }, unit: { type: "string", enum: ["celsius", "fahrenheit"] } },
  required: ["city", "unit"],
  additionalProperties: false,
};

// Run the named checks one after the other and write their names.
export async function run(checks) {
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
    } catch (error) {
      console.error(`${name} failed`);
      throw error;
    }
  }
  console.log(JSON.stringify(Object.keys(checks)));
}

export function looksLikeWeather(value) {
  assert.deepEqual(Object.keys(value).sort(), ["city", "unit"]);
  assert.ok(weather.properties.unit.enum.includes(value.unit));
}
