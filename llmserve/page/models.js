// The models of this server.

import { byId, element, say } from "./dom.js";
import { bytes, plural } from "./format.js";
import { ModelCard } from "./model_card.js";
import { deviceName } from "./plan.js";

export class Models {
  #cards = new Map();
  #statuses = new Map();
  #entries = null;
  #memory = [];
  #missing = "";

  /** `chat(name)` opens a chat with a model; `changed(entries)` hears of every new list. */
  constructor(server, { chat, changed, look }) {
    this.server = server;
    this.changed = changed;
    this.look = look;
    this.actions = {
      load: (name) => this.#ask("/admin/load", name),
      unload: (name) => this.#ask("/admin/stop", name),
      remove: (name) => this.#remove(name),
      plan: (name) => server.json(`/admin/plan?model=${encodeURIComponent(name)}`),
      chat,
    };
  }

  /** Ask for the list of models anew. */
  async refresh() {
    const { data } = await this.server.json("/v1/models");
    // A model with an adapter is loaded and removed with its model.
    const models = data.filter((entry) => !entry.parent);
    this.#entries = models;
    const kept = new Set(models.map((entry) => entry.id));
    for (const [name, card] of this.#cards) {
      if (kept.has(name)) continue;
      card.node.remove();
      this.#cards.delete(name);
    }
    const list = byId("models-list");
    models.forEach((entry, place) => {
      const card = this.#cards.get(entry.id) ?? new ModelCard(entry, this.actions);
      this.#cards.set(entry.id, card);
      card.describe(entry);
      card.update(this.#statuses.get(entry.id) ?? null);
      if (list.children[place] !== card.node) list.insertBefore(card.node, list.children[place] ?? null);
    });
    byId("models-empty").hidden = models.length > 0;
    this.#summarize();
    this.changed(data);
  }

  /** Show the live figures; whether there are other models than before that the list does not know. */
  update(live) {
    this.#statuses = new Map(live.models.map((status) => [status.name, status]));
    this.#memory = live.memory;
    for (const [name, card] of this.#cards) card.update(this.#statuses.get(name) ?? null);
    this.#summarize();
    const before = this.#missing;
    this.#missing = live.models.filter((status) => !this.#cards.has(status.name)).map((status) => status.name).join("\n");
    return this.#missing !== "" && this.#missing !== before;
  }

  #summarize() {
    if (this.#entries === null) return;
    const loaded = [...this.#statuses.values()].filter((status) => status.state === "ready").length;
    const free = this.#memory
      .filter((use) => use.total && use.available !== null)
      .map((use) => `${bytes(use.available)} of ${bytes(use.total)} ${deviceName(use.device)} free`);
    const some = this.#entries.length;
    const count = some ? `${plural(some, "model")}, ${loaded || "none"} loaded` : "No models yet";
    say(byId("models-summary"), [count, ...free].join(" · "));
  }

  async #ask(path, name) {
    const asked = this.server.json(path, { method: "POST", body: { model: name } });
    this.look();
    await asked;
    this.look();
  }

  async #remove(name) {
    const dialog = byId("remove-dialog");
    const entry = this.#entries.find((known) => known.id === name);
    byId("remove-text").replaceChildren(
      element("strong", {}, name),
      ` goes from this disk, ${bytes(entry.size_bytes)}. To have it again it must be pulled again.`,
    );
    dialog.returnValue = "keep";
    dialog.showModal();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    if (dialog.returnValue !== "remove") return;
    await this.server.json(`/models?model=${encodeURIComponent(name)}`, { method: "DELETE" });
    await this.refresh();
    byId("models-heading").focus();
  }
}
