// Numbers as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(count) {
  let unit = 0;
  while (count >= 1024 && unit < UNITS.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit && count < 99.95 ? count.toFixed(1) : Math.round(count)} ${UNITS[unit]}`;
}

export function seconds(count) {
  if (count < 1) return `${Math.round(count * 1000)} ms`;
  if (count < 9.95) return `${count.toFixed(1)} s`;
  if (count < 90) return `${Math.round(count)} s`;
  if (count < 5400) return `${Math.round(count / 60)} min`;
  return count < 172800 ? `${Math.round(count / 3600)} h` : `${Math.round(count / 86400)} days`;
}

export function parameters(count) {
  if (count >= 1e9) return `${(count / 1e9).toFixed(1)} B parameters`;
  return count >= 1e6 ? `${Math.round(count / 1e6)} M parameters` : `${Math.round(count / 1e3)} K parameters`;
}

export const integer = (count) => Math.round(count).toLocaleString("en");

export const decimal = (value) => (value < 99.95 && !Number.isInteger(value) ? value.toFixed(1) : integer(value));

export const plural = (count, noun) => `${integer(count)} ${noun}${count === 1 ? "" : "s"}`;

export const clock = (date) => date.toLocaleTimeString("en-GB");
