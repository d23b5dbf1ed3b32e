// Elements made by hand. Text is only ever set as text: nothing a model or a person writes becomes markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** Whether the focus in a field shows no keyboard on the screen, as it does on a phone. */
export const hasKeyboard = () => matchMedia("(pointer: fine)").matches;

/** An element with `properties` (`class`, `on<event>`, other attributes) and children: nodes or text. */
export function element(name, properties = {}, ...children) {
  return filled(document.createElement(name), properties, children);
}

export function svgElement(name, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, name), properties, children);
}

function filled(node, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Set the text of `node`, only if it differs: a screen reader repeats what is set again. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Show `text` in `node`, or hide it where there is none. */
export function notice(node, text, bad = false) {
  say(node, text ?? "");
  node.classList.toggle("bad", bad);
  node.hidden = !text;
}
