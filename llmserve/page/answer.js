// A message of a chat, written as it comes. Blocks of code, `code` and **strong** words are shown as such; the rest as text.

import { element, say } from "./dom.js";
import { decimal, plural, seconds } from "./format.js";

const INLINE = /(`[^`\n]+`|\*\*[^*\n]+\*\*)/;

export class Message {
  #content = "";
  #reasoning = "";
  #frame = null;

  constructor(role) {
    this.role = role;
    this.text = element("div", { class: "text" });
    this.thoughts = element("div", { class: "thoughts" });
    this.thinking = element("details", { class: "thinking", hidden: true }, element("summary", {}, "Thoughts"), this.thoughts);
    this.problem = element("p", { class: "notice bad", role: "alert", hidden: true });
    this.foot = element("div", { class: "foot", hidden: true });
    this.node = element(
      "article",
      { class: `message ${role}` },
      element("h2", { class: "unseen" }, role === "user" ? "You" : "Answer"),
      this.thinking,
      this.text,
      this.problem,
      this.foot,
    );
  }

  get content() {
    return this.#content;
  }

  add({ content = "", reasoning = "" }) {
    // Thoughts are open until the answer itself begins; from then on it is the reader's choice.
    if (reasoning && !this.#reasoning) this.thinking.open = true;
    if (content && !this.#content) this.thinking.open = false;
    this.#content += content;
    this.#reasoning += reasoning;
    // However many pieces come, they are drawn once a frame.
    this.#frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#frame = null;
    say(this.thoughts, this.#reasoning);
    this.thinking.hidden = !this.#reasoning;
    this.text.replaceChildren(...blocks(this.#content));
  }

  /** Show whether it is still written. */
  writing(writing) {
    this.node.classList.toggle("writing", writing);
    this.node.setAttribute("aria-busy", String(writing));
  }

  /** Show what the answer took, and `buttons` beneath it. */
  end(parts, buttons) {
    const facts = parts.filter(Boolean).join(" · ");
    this.foot.replaceChildren(...(facts ? [element("span", { class: "hint" }, facts)] : []), ...buttons);
    this.foot.hidden = false;
  }
}

/** What an answer took, in words, from its `usage` and `timings`. */
export function figures(usage, timings, firstSeconds, finish) {
  return [
    usage ? plural(usage.completion_tokens, "token") : null,
    timings?.predicted_per_second ? `${decimal(timings.predicted_per_second)} tokens/s` : null,
    firstSeconds !== null ? `first after ${seconds(firstSeconds)}` : null,
    finish === "length" ? "ended by the limit of tokens" : null,
  ];
}

function blocks(text) {
  // Every other part is code; what was not closed yet is code as well.
  return text.split(/^```/m).flatMap((part, place) => (place % 2 ? [code(part)] : part.trim() ? [prose(part)] : []));
}

function code(part) {
  const [language, ...lines] = part.split("\n");
  const label = language.trim() || "code";
  return element("pre", { tabindex: "0", "aria-label": label }, element("code", {}, lines.join("\n").trimEnd()));
}

function prose(part) {
  const pieces = part.trim().split(INLINE);
  return element("p", {}, ...pieces.map(inline));
}

function inline(piece) {
  if (piece.length > 2 && piece.startsWith("`") && piece.endsWith("`")) return element("code", {}, piece.slice(1, -1));
  if (piece.length > 4 && piece.startsWith("**") && piece.endsWith("**")) return element("strong", {}, piece.slice(2, -2));
  return piece;
}
