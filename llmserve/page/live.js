// The charts, made of figures that are kept as long as the page is open.

import { byId, say } from "./dom.js";
import { Chart, SPAN_SECONDS } from "./chart.js";
import { bytes, decimal, integer, plural, seconds } from "./format.js";
import { deviceName } from "./plan.js";

export class Live {
  #samples = [];
  #before = null;
  #memory = new Map();

  constructor() {
    this.requests = new Chart("Requests running", { format: integer, least: 4 });
    this.waiting = new Chart("Requests waiting", { format: integer, least: 4 });
    this.tokens = new Chart("Tokens per second", { format: decimal, least: 10 });
    this.firstToken = new Chart("Time to first token", { format: seconds, least: 0.1, dots: true, empty: "None yet" });
    byId("charts").append(...[this.requests, this.waiting, this.tokens, this.firstToken].map((chart) => chart.node));
  }

  /** Note the figures, and draw them if the charts are seen. */
  update(figures, seen) {
    this.#samples = this.#samples.filter((sample) => figures.time - sample.time < SPAN_SECONDS);
    this.#samples.push({ time: figures.time, ...this.#rates(figures), figures });
    this.#before = figures;
    if (seen) this.draw();
  }

  draw() {
    const figures = this.#before;
    if (!figures) return;
    const points = (value) => this.#samples.map((sample) => [sample.time, value(sample)]);
    const now = figures.time;
    say(byId("live-summary"), `llmserve ${figures.version}, up for ${seconds(figures.uptime_seconds)}`);
    this.requests.draw(points((sample) => running(sample.figures)), now, {
      note: `${plural(figures.requests, "request")} since the start`,
    });
    this.waiting.draw(points((sample) => sample.figures.waiting), now);
    this.tokens.draw(points((sample) => sample.tokens), now, { note: `${plural(figures.tokens, "token")} written since the start` });
    const mean = figures.first_contents ? figures.first_content_seconds / figures.first_contents : null;
    this.firstToken.draw(points((sample) => sample.firstToken), now, {
      note: mean === null ? "Of streamed answers" : `${seconds(mean)} on average, of ${plural(figures.first_contents, "streamed answer")}`,
    });
    for (const use of figures.memory) this.#drawMemory(use, figures, now);
  }

  #drawMemory({ device, total }, figures, now) {
    if (!total) return;
    if (!this.#memory.has(device)) {
      const chart = new Chart(`${deviceName(device)} in use`, { format: bytes });
      this.#memory.set(device, chart);
      byId("charts").append(chart.node);
    }
    const used = (sample) => {
      const use = sample.figures.memory.find((known) => known.device === device);
      return use && use.available !== null ? use.total - use.available : null;
    };
    const planned = figures.models
      .flatMap((model) => model.plan?.memory ?? [])
      .filter((memory) => memory.device === device)
      .reduce((sum, memory) => sum + whole(memory), 0);
    const note = `of ${bytes(total)}${planned ? ` · ${bytes(planned)} planned for models` : ""}`;
    this.#memory.get(device).draw(this.#samples.map((sample) => [sample.time, used(sample)]), now, { note, most: total });
  }

  /** What passed between the sample before and this one, by time. */
  #rates(figures) {
    const before = this.#before;
    const passed = before ? figures.time - before.time : 0;
    // A gap is no rate, and a server that began anew counts from nothing.
    if (!(passed > 0) || passed > 30 || figures.uptime_seconds < before.uptime_seconds) return { tokens: null, firstToken: null };
    const answers = figures.first_contents - before.first_contents;
    const waited = figures.first_content_seconds - before.first_content_seconds;
    return {
      tokens: Math.max(0, figures.tokens - before.tokens) / passed,
      firstToken: answers > 0 ? waited / answers : null,
    };
  }
}

const running = (figures) => figures.models.reduce((sum, model) => sum + model.leases, 0);

const whole = (memory) =>
  memory.weights + memory.kv_cache + memory.compute + memory.overhead + memory.saved_prefixes + memory.correction;
