// Getting a model, with progress.

import { byId, element, notice, say } from "./dom.js";
import { bytes, seconds } from "./format.js";

const STAGES = {
  choosing: "Choosing a variant",
  resolving: "Looking it up",
  waiting: "Waiting for somebody else's pull of it",
  downloading: "Downloading",
  quantizing: "Quantizing",
  verifying: "Verifying",
  publishing: "Putting it in its place",
};
// How far back the speed is measured.
const SPEED_MILLISECONDS = 5000;

export class Pull {
  #abort = null;
  #samples = [];
  #choice = "";

  /** `done` is called after a model has come. */
  constructor(server, done) {
    this.server = server;
    this.done = done;
    byId("pull-form").onsubmit = (event) => {
      event.preventDefault();
      this.start(byId("pull-name").value.trim());
    };
    byId("pull-cancel").onclick = () => this.#abort?.abort();
    byId("pull-starter").onclick = () => this.start("smollm2");
  }

  /** Fill the list of suggestions. */
  async suggest() {
    const { models } = await this.server.json("/admin/catalog");
    const options = models.map((model) => element("option", { value: model.name }, model.description));
    byId("catalog").replaceChildren(...options);
  }

  async start(name) {
    if (!name || this.#abort) return;
    this.#abort = new AbortController();
    this.#samples = [];
    this.#choice = "";
    this.#running(true);
    notice(byId("pull-result"), null);
    say(byId("pull-stage"), `${STAGES.resolving}: ${name}`);
    say(byId("pull-detail"), "");
    byId("pull-bar").removeAttribute("value");
    try {
      const asked = { method: "POST", body: { model: name }, signal: this.#abort.signal };
      for await (const { value } of this.server.stream("/admin/pull", asked)) {
        if (value?.stage === "done") {
          notice(byId("pull-result"), `${value.model.name} is here.`);
          byId("pull-name").value = "";
        } else if (value) this.#show(name, value);
      }
      await this.done();
    } catch (error) {
      const stopped = error.name === "AbortError";
      const text = stopped ? "Stopped. What came is kept: the next pull goes on from there." : error.message;
      notice(byId("pull-result"), text, !stopped);
    } finally {
      this.#abort = null;
      this.#running(false);
    }
  }

  #running(running) {
    byId("pull-progress").hidden = !running;
    for (const id of ["pull-start", "pull-starter", "pull-name"]) byId(id).disabled = running;
  }

  #show(name, event) {
    if (event.stage === "choosing") this.#choice = `${event.option}: ${event.reason}`;
    say(byId("pull-stage"), `${STAGES[event.stage] ?? event.stage}: ${name}`);
    const bar = byId("pull-bar");
    if (event.total) {
      bar.max = event.total;
      bar.value = event.completed;
    } else bar.removeAttribute("value");
    say(byId("pull-detail"), this.#detail(event));
  }

  #detail({ stage, completed, total }) {
    if (!total) return this.#choice;
    const known = `${bytes(completed)} of ${bytes(total)}`;
    if (stage !== "downloading") return known;
    const now = performance.now();
    this.#samples = this.#samples.filter(([at]) => now - at < SPEED_MILLISECONDS);
    this.#samples.push([now, completed]);
    const [since, before] = this.#samples[0];
    const speed = ((completed - before) / (now - since)) * 1000;
    if (!(speed > 0)) return known;
    return `${known} · ${bytes(speed)}/s · ${seconds((total - completed) / speed)} left`;
  }
}
