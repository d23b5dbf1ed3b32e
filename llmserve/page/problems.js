// What went wrong lately.

import { byId, element, say } from "./dom.js";
import { clock, seconds } from "./format.js";

export class Problems {
  #shown = "";

  constructor(server) {
    this.server = server;
  }

  async refresh() {
    const { problems } = await this.server.json("/admin/problems");
    byId("problems-empty").hidden = problems.length > 0;
    const badge = byId("problem-count");
    const errors = problems.filter((problem) => problem.level !== "warning").length;
    badge.hidden = errors === 0;
    say(badge, String(errors));
    badge.setAttribute("aria-label", `${errors} errors`);
    // Kept as it is while nothing is new, so that text can be selected.
    const state = JSON.stringify(problems);
    if (state === this.#shown) return;
    this.#shown = state;
    byId("problems-list").replaceChildren(...problems.map(item));
  }
}

function item(problem) {
  const at = new Date(problem.time * 1000);
  const age = (Date.now() - at) / 1000;
  const when = age < 86400 ? clock(at) : at.toLocaleString("en-GB");
  return element(
    "li",
    { class: `card problem ${problem.level}` },
    element(
      "div",
      { class: "row spread" },
      element("span", { class: "where" }, problem.status ? `${problem.where} → ${problem.status}` : problem.where),
      element(
        "span",
        { class: "muted" },
        element("time", { datetime: at.toISOString(), title: `${seconds(Math.max(0, age))} ago` }, when),
        problem.count > 1 ? ` · ${problem.count} times` : "",
      ),
    ),
    element("p", {}, problem.message),
  );
}
