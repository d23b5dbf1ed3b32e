// The page as a whole: its sections, and the figures that are asked for while somebody looks.

import { Chat } from "./chat.js";
import { byId, hasKeyboard, say } from "./dom.js";
import { askForKey } from "./key.js";
import { Live } from "./live.js";
import { Models } from "./models.js";
import { Poll } from "./poll.js";
import { Problems } from "./problems.js";
import { Pull } from "./pull.js";
import { Server } from "./server.js";

const POLL_MILLISECONDS = 2000;
// A server that says nothing for so long is away.
const SILENCE_MILLISECONDS = 15_000;
// The lists change rarely, and a change that is seen in the figures asks for them at once.
const LISTS_SECONDS = 30;
const SECTIONS = [...document.querySelectorAll("[data-view]")];

const server = new Server(askForKey);
const chat = new Chat(server);
const live = new Live();
const problems = new Problems(server);
const models = new Models(server, {
  chat: (name) => {
    chat.choose(name);
    location.hash = "chat";
  },
  changed: (entries) => chat.offer(entries),
  look: () => figures.now(),
});
const pull = new Pull(server, () => lists());

let listedAt = -Infinity;
let shown = null;

async function lists() {
  listedAt = performance.now();
  await Promise.all([models.refresh(), problems.refresh()]);
}

const figures = new Poll(async () => {
  try {
    const now = await server.json("/admin/live", { signal: AbortSignal.timeout(SILENCE_MILLISECONDS) });
    const unknown = models.update(now);
    live.update(now, shown === "live");
    const due = performance.now() - listedAt > LISTS_SECONDS * 1000;
    if (unknown || due) await lists();
    else if (shown === "problems") await problems.refresh();
    connected("Connected", true);
  } catch (error) {
    connected(error.message, false);
    throw error;
  }
}, POLL_MILLISECONDS);

function connected(text, well) {
  const connection = byId("connection");
  say(connection, text);
  connection.classList.toggle("good", well);
  connection.classList.toggle("bad", !well);
}

/** Show the section that the address names, models otherwise. `moved`: somebody went there, and the focus goes along. */
function show(moved) {
  const named = location.hash.slice(1);
  const view = SECTIONS.some((section) => section.dataset.view === named) ? named : "models";
  if (view === shown) return;
  shown = view;
  for (const section of SECTIONS) section.hidden = section.dataset.view !== view;
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.body.dataset.shown = view;
  document.title = `${byId(`${view}-heading`).textContent} · llmserve`;
  if (view === "live") live.draw();
  if (view === "chat") chat.enter();
  if (view === "problems") figures.now();
  if (!moved) return;
  window.scrollTo(0, 0);
  byId(view === "chat" && hasKeyboard() ? "chat-text" : `${view}-heading`).focus();
}

window.addEventListener("hashchange", () => show(true));
byId("skip").onclick = (event) => {
  event.preventDefault();
  byId("content").focus();
};
show(false);
figures.now();
pull.suggest().catch(() => {});
