// The server this page came from: requests, the key, and errors as sentences.

import { events } from "./events.js";

const KEY = "llmserve-key";

export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export class Server {
  #key = stored();
  #asking = null;

  /** `askForKey(accepts)` asks a person until `accepts(key)`, which throws what is wrong, is true; returns the key. */
  constructor(askForKey) {
    this.askForKey = askForKey;
  }

  /** The response to a request, once it is a good one. Throws `ServerError`, and `AbortError` when it is aborted. */
  async request(path, { method = "GET", body, signal } = {}) {
    for (;;) {
      const key = this.#key;
      const response = await this.#fetch(path, method, body, signal, key);
      if (response.ok) return response;
      if (response.status !== 401) throw await failure(response);
      // Another request may have been told the right one meanwhile.
      if (key === this.#key) await this.#renewKey();
    }
  }

  async json(path, options) {
    return (await this.request(path, options)).json();
  }

  /** The events of a stream. Throws as `request` does, also for an error that is told in the stream. */
  async *stream(path, options) {
    const response = await this.request(path, options);
    try {
      for await (const event of events(response.body)) {
        if (event.data === "[DONE]") return;
        if (event.data === undefined) {
          yield event;
          continue;
        }
        const value = JSON.parse(event.data);
        if (value.error) throw new ServerError(value.error.message);
        yield { value };
      }
    } catch (error) {
      throw error instanceof TypeError ? new ServerError("The connection broke before the answer was complete.") : error;
    }
    throw new ServerError("The answer ended before it was complete.");
  }

  async #fetch(path, method, body, signal, key) {
    const headers = {};
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const text = body === undefined ? undefined : JSON.stringify(body);
    try {
      return await fetch(path, { method, headers, body: text, signal, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("The server does not answer.");
    }
  }

  async #renewKey() {
    this.#asking ??= this.askForKey((key) => this.#accepts(key), Boolean(this.#key));
    try {
      this.#key = await this.#asking;
      store(this.#key);
    } finally {
      this.#asking = null;
    }
  }

  async #accepts(key) {
    const response = await this.#fetch("/admin/ps", "GET", undefined, undefined, key);
    if (response.ok) return true;
    if (response.status === 401) return false;
    throw await failure(response);
  }
}

async function failure(response) {
  const fallback = `The server answered with status ${response.status}.`;
  try {
    const { error } = await response.json();
    return new ServerError((typeof error === "string" ? error : error.message) || fallback, response.status);
  } catch {
    return new ServerError(fallback, response.status);
  }
}

// A browser may forbid storage; the key is then asked for after each reload.
function stored() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function store(key) {
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // Kept in memory.
  }
}
