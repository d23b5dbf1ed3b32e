// One model: its state, what can be done with it, and its plan.

import { element, notice, say } from "./dom.js";
import { bytes, integer, parameters, plural, seconds } from "./format.js";
import { planPicture } from "./plan.js";

const STATES = {
  ready: "Loaded",
  loading: "Loading",
  stopping: "Unloading",
  failed: "Failed",
  unloaded: "Not loaded",
};

export class ModelCard {
  #entry;
  #status = null;
  #busy = false;
  #shownPlan = null;

  /** `actions`: `load`, `unload`, `remove`, `chat` and `plan`, each called with the model's name. */
  constructor(entry, actions) {
    this.#entry = entry;
    this.actions = actions;
    this.#build();
    this.describe(entry);
    this.update(null);
  }

  get name() {
    return this.#entry.id;
  }

  #build() {
    this.title = element("h2", { class: "name" });
    this.state = element("span", { class: "state" });
    this.about = element("p", { class: "about" });
    this.traits = element("ul", { class: "traits" });
    this.bar = element("progress", { hidden: true, "aria-label": "Progress of the load" });
    this.now = element("p", { class: "hint" });
    this.failure = element("p", { class: "notice bad", hidden: true });
    this.problem = element("p", { class: "notice bad", role: "alert", hidden: true });
    this.lines = element("pre", { class: "lines", tabindex: "0", "aria-label": "The last lines of its log" });
    this.log = element("details", { class: "more", hidden: true }, element("summary", {}, "What its log said at the last failure"), this.lines);
    this.toggle = this.#button("primary", "", () => this.#act(this.#status ? this.actions.unload : this.actions.load));
    this.talk = this.#button("quiet", "Chat", () => this.actions.chat(this.name));
    this.plan = element("div", { class: "plan" });
    const remove = this.#button("danger", "Remove from the disk", () => this.#act(this.actions.remove));
    this.details = element(
      "details",
      { class: "more", ontoggle: () => this.#showPlan() },
      element("summary", {}, "How it runs, and why"),
      this.plan,
      element("div", { class: "row end" }, remove),
    );
    this.node = element(
      "article",
      { class: "card model" },
      element("div", { class: "row spread top-row" }, this.title, this.state),
      this.about,
      this.traits,
      this.bar,
      this.now,
      this.failure,
      this.problem,
      this.log,
      element("div", { class: "row" }, this.toggle, this.talk),
      this.details,
    );
  }

  #button(kind, text, onclick) {
    return element("button", { class: `button ${kind}`, type: "button", onclick }, text);
  }

  /** Show what `/v1/models` says of the model. */
  describe(entry) {
    this.#entry = entry;
    say(this.title, entry.id);
    const described = entry.info.meta.description;
    say(this.about, described ?? "");
    this.about.hidden = !described;
    const traits = [
      entry.quantization,
      entry.parameters ? parameters(entry.parameters) : null,
      bytes(entry.size_bytes),
      entry.context_length ? `${integer(entry.context_length)} tokens of context` : null,
      entry.kind === "embed" ? "embeddings" : null,
      entry.aliases.length ? `also ${entry.aliases.join(", ")}` : null,
    ];
    this.traits.replaceChildren(...traits.filter(Boolean).map((text) => element("li", {}, text)));
    this.talk.hidden = entry.kind === "embed";
  }

  /** Show the status that the server tells of a model it has loaded or tried to, null for another. */
  update(status) {
    this.#status = status && status.state !== "failed" ? status : null;
    const state = status?.state ?? "unloaded";
    this.node.dataset.state = state;
    say(this.state, STATES[state]);
    say(this.toggle, this.#status ? "Unload" : "Load");
    this.toggle.setAttribute("aria-label", `${this.toggle.textContent} ${this.name}`);
    this.toggle.classList.toggle("primary", !this.#status);
    this.toggle.classList.toggle("quiet", Boolean(this.#status));
    this.toggle.disabled = this.#busy || state === "loading" || state === "stopping";
    this.bar.hidden = state !== "loading";
    if (status?.progress > 0) this.bar.value = status.progress;
    else this.bar.removeAttribute("value");
    say(this.now, doing(status));
    this.now.hidden = !this.now.textContent;
    // A model that has recovered keeps its last error; what an action here failed with says the same already.
    const failure = state === "ready" || this.problem.textContent === status?.last_error ? null : status?.last_error;
    notice(this.failure, failure, true);
    this.log.hidden = !status?.log_tail;
    say(this.lines, status?.log_tail ?? "");
    if (this.details.open) this.#showPlan();
  }

  async #act(action) {
    this.#busy = this.toggle.disabled = true;
    notice(this.problem, null);
    try {
      await action(this.name);
    } catch (error) {
      notice(this.problem, error.message, true);
    }
    this.#busy = false;
    this.toggle.disabled = false;
  }

  /** That of the running model, or else what would be tried now. */
  async #showPlan() {
    const running = this.#status?.plan ?? null;
    const wanted = running ? JSON.stringify(running) : "preview";
    if (!this.details.open) this.#shownPlan = running ? this.#shownPlan : null;
    if (!this.details.open || this.#shownPlan === wanted) return;
    this.#shownPlan = wanted;
    if (running) {
      this.plan.replaceChildren(...planPicture(running));
      return;
    }
    this.plan.replaceChildren(element("p", { class: "hint", role: "status" }, "Looking at this machine"));
    try {
      const { plan, changes } = await this.actions.plan(this.name);
      if (this.#shownPlan === wanted) this.plan.replaceChildren(...planPicture(plan, changes));
    } catch (error) {
      this.plan.replaceChildren(element("p", { class: "notice bad", role: "alert" }, error.message));
    }
  }
}

/** What a model does at this moment, in words. */
function doing(status) {
  if (!status) return "";
  if (status.state === "loading") {
    const share = status.progress > 0 ? `, ${Math.round(status.progress * 100)} %` : "";
    return `${status.phase ?? "Loading"}${share}${waiting(status)}`;
  }
  if (status.state === "failed") {
    return status.retry_in_seconds ? `May be asked for again in ${seconds(status.retry_in_seconds)}` : "";
  }
  if (status.state !== "ready") return "";
  const parts = [status.leases ? plural(status.leases, "request") : "Idle"];
  if (status.waiting) parts.push(`${status.waiting} waiting`);
  if (status.pinned) parts.push("stays");
  else if (status.unload_in_seconds !== null) parts.push(`unloads in ${seconds(status.unload_in_seconds)}`);
  if (status.restarts) parts.push(plural(status.restarts, "restart"));
  if (status.fallback) parts.push(`runs on ${status.fallback}`);
  return parts.join(" · ");
}

const waiting = (status) => (status.waiting ? ` · ${plural(status.waiting, "request")} waiting` : "");
