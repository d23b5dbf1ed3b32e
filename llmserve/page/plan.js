// The picture of a plan: what each device's memory is for, why, and what was not taken.

import { element } from "./dom.js";
import { bytes, integer } from "./format.js";

const PARTS = [
  ["weights", "Weights"],
  ["kv_cache", "KV cache"],
  ["compute", "Compute"],
  ["overhead", "Overhead"],
  ["saved_prefixes", "Kept prefixes"],
];

/** Nodes that show `plan`; `changes` are sentences about what would make it another one. */
export function planPicture(plan, changes = []) {
  return [
    element("p", { class: "reason" }, sentence(plan.reason)),
    plan.fits ? null : element("p", { class: "notice bad" }, "This is more than is available: the load may fail."),
    ...plan.memory.map(device),
    facts(plan),
    plan.refused.length ? element("h3", {}, "Not taken") : null,
    plan.refused.length ? element("dl", { class: "refused" }, ...plan.refused.flatMap(refusal)) : null,
    changes.length ? element("h3", {}, "What would change it") : null,
    changes.length ? element("ul", { class: "changes" }, ...changes.map((text) => element("li", {}, sentence(text)))) : null,
  ].filter((node) => node !== null);
}

function device(memory) {
  const parts = PARTS.map(([name, label]) => [name, label, size(memory, name)]).filter(([, , count]) => count > 0);
  const total = parts.reduce((sum, [, , count]) => sum + count, 0);
  const available = memory.available ?? total;
  const scale = Math.max(total, available, 1);
  const bar = element("div", { class: "bar", "aria-hidden": "true" });
  for (const [name, , count] of parts) {
    const segment = element("span", { class: `segment ${name}` });
    segment.style.flexGrow = count / scale;
    bar.append(segment);
  }
  if (total < scale) {
    const free = element("span", { class: "free" });
    free.style.flexGrow = (scale - total) / scale;
    bar.append(free);
  }
  bar.classList.toggle("over", total > available);
  const of = memory.available === null ? "" : ` of ${bytes(available)} free when it was planned`;
  return element(
    "figure",
    { class: "memory" },
    element("figcaption", {}, element("strong", {}, deviceName(memory.device)), ` ${bytes(total)}${of}`),
    bar,
    element("ul", { class: "legend" }, ...parts.map(([name, label, count]) => legend(name, label, count))),
  );
}

// A correction has no part of its own; it belongs to what the runtime takes.
const size = (memory, name) => memory[name] + (name === "overhead" ? memory.correction : 0);

const legend = (name, label, count) =>
  element("li", {}, element("span", { class: `swatch ${name}`, "aria-hidden": "true" }), `${label} `, element("b", {}, bytes(count)));

export const deviceName = (device) => (device === "ram" ? "RAM" : device);

function facts(plan) {
  const known = [
    ["Engine", plan.engine],
    ["Devices", plan.devices.join(", ")],
    ["Layers on GPUs", `${plan.gpu_layers} of ${plan.total_layers}`],
    ["Context", `${integer(plan.context)} tokens`],
    ["At once", plan.kind === "embed" ? null : `${plan.parallel} sequences`],
    ["KV cache", plan.kind === "embed" ? null : plan.kv_type],
    ["Threads", integer(plan.threads)],
    ["Step", `${integer(plan.batch)} tokens`],
  ];
  const shown = known.filter(([, value]) => value !== null);
  return element(
    "dl",
    { class: "facts" },
    ...shown.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

const refusal = ({ option, reason }) => [element("dt", {}, option), element("dd", {}, sentence(reason))];

function sentence(text) {
  const ended = /[.!?]$/.test(text) ? text : `${text}.`;
  // "llama.cpp" and "vllm" are names, and stay as they are.
  return /^(llama\.cpp|vllm)/i.test(ended) ? ended : ended[0].toUpperCase() + ended.slice(1);
}
