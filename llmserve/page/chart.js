// A small chart of the last minutes: an area, or dots for what happens now and then.

import { element, say, svgElement } from "./dom.js";
import { clock } from "./format.js";

export const SPAN_SECONDS = 300;
// Points further apart than this were not measured side by side: the tab was hidden, or the server silent.
const GAP_SECONDS = 8;
const HEADROOM = 1.05;
const STEPS = [1, 1.5, 2, 3, 4, 5, 6, 8, 10];
const WIDTH = 300;
const HEIGHT = 80;

export class Chart {
  #points = [];

  /**
   * `format` makes text of a value; `dots` draws single points; `most` is the top of the scale where it is known;
   * `least` is how far the scale goes at least.
   */
  constructor(title, { format, dots = false, least = 1, empty = "Nothing yet" }) {
    this.format = format;
    this.dots = dots;
    this.least = least;
    this.empty = empty;
    this.value = element("span", { class: "value" });
    this.note = element("span", { class: "hint" });
    this.top = element("span", { class: "scale" });
    this.line = svgElement("path", { class: dots ? "dots" : "line" });
    this.area = svgElement("path", { class: "area" });
    this.cursor = svgElement("path", { class: "cursor" });
    const middle = `M0 ${HEIGHT / 2}H${WIDTH}`;
    this.picture = svgElement(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      svgElement("path", { class: "grid", d: `M0 .5H${WIDTH}${middle}M0 ${HEIGHT - 0.5}H${WIDTH}` }),
      this.area,
      this.line,
      this.cursor,
    );
    this.plot = element("div", { class: "plot", onpointermove: (event) => this.#point(event), onpointerleave: () => this.#rest() });
    this.plot.append(this.top, this.picture);
    this.title = title;
    this.node = element(
      "figure",
      { class: "card chart" },
      element("figcaption", {}, element("span", { class: "title" }, title), this.value),
      this.plot,
      element("div", { class: "axis", "aria-hidden": "true" }, element("span", {}, "5 min ago"), element("span", {}, "now")),
      this.note,
    );
  }

  /** Draw `points`, `[seconds, value or null]` in their order, up to the time `now`; `most` is the top, if it is known. */
  draw(points, now, { note = "", most = null } = {}) {
    this.#points = points.filter(([, value]) => value !== null);
    this.now = now;
    const highest = Math.max(this.least, ...this.#points.map(([, value]) => value));
    this.most = most ?? rounded(highest);
    const runs = this.#runs();
    this.line.setAttribute("d", this.dots ? this.#points.map((point) => `M${this.#at(point)}h0`).join("") : runs.map(path).join(""));
    const closed = ([start], [end], run) => `${path(run)}L${end} ${HEIGHT}L${start} ${HEIGHT}Z`;
    this.area.setAttribute("d", this.dots ? "" : runs.map((run) => closed(run[0], run.at(-1), run)).join(""));
    say(this.top, this.format(this.most));
    say(this.note, note);
    this.note.hidden = !note;
    this.#rest();
  }

  #at([time, value]) {
    const x = WIDTH * (1 - (this.now - time) / SPAN_SECONDS);
    return [x.toFixed(2), (HEIGHT - (Math.min(value, this.most) / this.most) * (HEIGHT - 2) - 1).toFixed(2)];
  }

  #runs() {
    const runs = [];
    let before = -Infinity;
    for (const point of this.#points) {
      if (point[0] - before > GAP_SECONDS) runs.push([]);
      runs.at(-1).push(this.#at(point));
      before = point[0];
    }
    return runs;
  }

  /** Show the latest value, and say all of it in words for who does not see it. */
  #rest() {
    this.cursor.setAttribute("d", "");
    const latest = this.#points.at(-1);
    say(this.value, latest ? this.format(latest[1]) : this.empty);
    this.value.classList.toggle("none", !latest);
    const highest = Math.max(...this.#points.map(([, value]) => value));
    const words = latest
      ? `${this.title}: now ${this.format(latest[1])}, at most ${this.format(highest)} in the last 5 minutes`
      : `${this.title}: ${this.empty}`;
    this.picture.setAttribute("aria-label", words);
  }

  #point(event) {
    if (!this.#points.length) return;
    const box = this.picture.getBoundingClientRect();
    const time = this.now - SPAN_SECONDS * (1 - (event.clientX - box.left) / box.width);
    const distance = ([at]) => Math.abs(at - time);
    const nearest = this.#points.reduce((best, point) => (distance(point) < distance(best) ? point : best));
    this.cursor.setAttribute("d", `M${this.#at(nearest)[0]} 0V${HEIGHT}`);
    say(this.value, `${this.format(nearest[1])} at ${clock(new Date(nearest[0] * 1000))}`);
  }
}

const path = (run) => `M${run.map(([x, y]) => `${x} ${y}`).join("L")}`;

/** A round number a little above `value`. */
function rounded(value) {
  const power = 10 ** Math.floor(Math.log10(value * HEADROOM));
  return STEPS.map((step) => step * power).find((step) => step >= value * HEADROOM);
}
