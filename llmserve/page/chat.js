// A chat, to try a model with its parameters.

import { figures, Message } from "./answer.js";
import { byId, element, hasKeyboard, notice, say } from "./dom.js";

export class Chat {
  // Each is a question and its latest answer.
  #turns = [];
  #abort = null;
  #models = [];
  // Models whose own defaults were put into the form, and what they were.
  #defaults = new Map();
  #suited = null;

  constructor(server) {
    this.server = server;
    this.log = byId("chat-log");
    byId("chat-form").onsubmit = (event) => {
      event.preventDefault();
      this.#send();
    };
    byId("chat-text").onkeydown = (event) => {
      // Enter that ends the composition of a character is not for us.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    };
    byId("chat-stop").onclick = () => this.#abort?.abort();
    byId("chat-new").onclick = () => this.clear();
    byId("chat-model").onchange = () => this.#suit();
    // On a narrow screen the parameters would be above everything else.
    byId("chat-parameters").open = matchMedia("(min-width: 60rem)").matches;
    this.clear();
  }

  /** Offer these models, entries of `/v1/models`. */
  offer(entries) {
    const select = byId("chat-model");
    const before = select.value;
    const known = this.#models.map((entry) => entry.id).join("\n");
    this.#models = entries.filter((entry) => entry.kind !== "embed");
    // An open list would close.
    if (this.#models.map((entry) => entry.id).join("\n") !== known)
      select.replaceChildren(...this.#models.map((entry) => element("option", { value: entry.id }, entry.id)));
    const loaded = this.#models.find((entry) => entry.status.value === "loaded");
    const wanted = this.#models.find((entry) => entry.id === before) ?? loaded ?? this.#models[0];
    if (wanted) select.value = wanted.id;
    byId("chat-send").disabled = !wanted;
    if (wanted?.id !== before) this.#suit();
    if (!this.#turns.length) this.#welcome();
  }

  /** The chat is seen from now on. */
  enter() {
    this.#suit();
  }

  /** Chat with the model of this name. */
  choose(name) {
    byId("chat-model").value = name;
    this.#suit();
    if (!this.#turns.length) this.#welcome();
  }

  clear() {
    this.#abort?.abort();
    this.#turns = [];
    this.#welcome();
    say(byId("chat-status"), "");
  }

  #welcome() {
    const text = this.#models.length
      ? `Say something to ${byId("chat-model").value}. It is loaded if it is not yet; Shift and Enter begin a new line.`
      : "There is no model to talk to yet: get one under Models.";
    this.log.replaceChildren(element("p", { class: "welcome muted" }, text));
  }

  /** Put the model's own system message and temperature into the form, where nothing else was written. */
  async #suit() {
    const model = byId("chat-model").value;
    say(byId("chat-chosen"), model || "Model");
    // To ask for its defaults is a use of the model: not before somebody is here.
    if (!model || model === this.#suited || byId("chat-form").closest("[hidden]")) return;
    if (!this.#defaults.has(model)) {
      const shown = await this.server.json("/api/show", { method: "POST", body: { model } }).catch(() => null);
      if (!shown) return;
      const temperature = /^temperature\s+(\S+)/m.exec(shown.parameters ?? "")?.[1] ?? "";
      this.#defaults.set(model, { system: shown.system ?? "", temperature });
    }
    if (byId("chat-model").value !== model) return;
    this.#suited = model;
    for (const field of ["system", "temperature"]) {
      const input = byId(`chat-${field}`);
      const untouched = [...this.#defaults.values()].some((defaults) => defaults[field] === input.value);
      if (untouched || !input.value) input.value = this.#defaults.get(model)[field];
    }
  }

  #send() {
    const input = byId("chat-text");
    const text = input.value.trim();
    if (!text || this.#abort || !byId("chat-model").value) return;
    for (const id of ["chat-temperature", "chat-limit"]) {
      if (byId(id).checkValidity()) continue;
      byId("chat-parameters").open = true;
      byId(id).reportValidity();
      return;
    }
    if (!this.#turns.length) this.log.replaceChildren();
    const turn = { question: new Message("user"), answer: null };
    turn.question.add({ content: text });
    turn.question.draw();
    this.#turns.push(turn);
    this.log.append(turn.question.node);
    input.value = "";
    this.#answer(turn);
  }

  async #answer(turn) {
    const answer = new Message("assistant");
    turn.answer = answer;
    this.log.append(answer.node);
    this.#follow(true);
    this.#writing(answer, true);
    this.#abort = new AbortController();
    const abort = this.#abort;
    const started = performance.now();
    let first = null;
    let last = {};
    let outcome = "";
    try {
      for await (const piece of this.#pieces(this.#body(turn), abort.signal)) {
        if (piece.comment) say(byId("chat-status"), waitingFor(piece.comment));
        if (piece.content || piece.reasoning) {
          first ??= (performance.now() - started) / 1000;
          say(byId("chat-status"), "Answering");
          answer.add(piece);
          this.#follow();
        }
        last = { ...last, ...piece.end };
      }
      answer.draw();
      answer.end(figures(last.usage, last.timings, last.streamed ? first : null, last.finish), this.#buttons(turn));
      outcome = "The answer is complete.";
    } catch (error) {
      answer.draw();
      const stopped = error.name === "AbortError";
      outcome = stopped ? "Stopped." : "";
      notice(answer.problem, stopped ? null : error.message, true);
      answer.end([stopped ? "Stopped" : null], this.#buttons(turn));
    }
    // A new chat may have begun meanwhile.
    if (this.#abort === abort) {
      this.#abort = null;
      this.#writing(answer, false);
      say(byId("chat-status"), this.#turns.includes(turn) ? outcome : "");
      this.#follow();
    }
  }

  /** `{content, reasoning}` as it comes, `{comment}` while nothing does, `{end}` with what is known afterwards. */
  async *#pieces(body, signal) {
    const asked = { method: "POST", body, signal };
    if (!body.stream) {
      const answer = await this.server.json("/v1/chat/completions", asked);
      const [choice] = answer.choices;
      yield { content: choice.message.content ?? "", reasoning: choice.message.reasoning_content ?? "" };
      yield { end: { usage: answer.usage, timings: answer.timings, finish: choice.finish_reason } };
      return;
    }
    for await (const { value, comment } of this.server.stream("/v1/chat/completions", asked)) {
      if (comment !== undefined) yield { comment };
      if (!value) continue;
      const choice = value.choices[0];
      if (choice) yield { content: choice.delta.content ?? "", reasoning: choice.delta.reasoning_content ?? "" };
      if (choice?.finish_reason) yield { end: { finish: choice.finish_reason } };
      if (value.usage) yield { end: { usage: value.usage, timings: value.timings, streamed: true } };
    }
  }

  /** The request for the answer of `turn`. What was never answered is no part of the conversation. */
  #body(turn) {
    const system = byId("chat-system").value.trim();
    const before = this.#turns.slice(0, this.#turns.indexOf(turn)).filter(({ answer }) => answer.content);
    const messages = [...before.flatMap(({ question, answer }) => [question, answer]), turn.question];
    const said = messages.map(({ role, content }) => ({ role, content }));
    const body = {
      model: byId("chat-model").value,
      messages: [...(system ? [{ role: "system", content: system }] : []), ...said],
      stream: byId("chat-stream").checked,
    };
    if (byId("chat-temperature").value) body.temperature = Number(byId("chat-temperature").value);
    if (byId("chat-limit").value) body.max_tokens = Number(byId("chat-limit").value);
    if (body.stream) body.stream_options = { include_usage: true };
    return body;
  }

  #writing(answer, writing) {
    answer.writing(writing);
    this.log.setAttribute("aria-busy", String(writing));
    byId("chat-send").hidden = writing;
    byId("chat-stop").hidden = !writing;
    say(byId("chat-status"), writing ? "Waiting for the answer" : "");
    if (!writing && hasKeyboard()) byId("chat-text").focus({ preventScroll: true });
  }

  #buttons(turn) {
    const { answer } = turn;
    const again = element("button", { class: "link again", type: "button", onclick: () => this.#again(turn) }, "Answer again");
    const copy = element("button", { class: "link", type: "button" }, "Copy");
    copy.onclick = async () => {
      await navigator.clipboard.writeText(answer.content);
      say(copy, "Copied");
    };
    // Without https a browser gives the clipboard only to pages of this machine.
    return navigator.clipboard && answer.content ? [copy, again] : [again];
  }

  /** Forget the answer of `turn` and all that followed, and ask for another. */
  #again(turn) {
    if (this.#abort) return;
    this.#turns = this.#turns.slice(0, this.#turns.indexOf(turn) + 1);
    while (this.log.lastChild !== turn.question.node) this.log.lastChild.remove();
    this.#answer(turn);
  }

  /** Keep the end in sight, unless somebody reads further up. */
  #follow(always = false) {
    const rest = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight;
    if (always || rest < 120) this.log.scrollTop = this.log.scrollHeight;
  }
}

const waitingFor = (comment) => (comment === "keep-alive" ? "Waiting for the answer" : `Waiting: ${comment}`);
