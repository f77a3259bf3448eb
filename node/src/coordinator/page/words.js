// How numbers, names and times are written. Nothing here knows of a cluster.

export const SLOTS = 16384;

export const count = (value) => (value ?? 0).toLocaleString("en");
export const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;
export const byName = (a, b) => a.localeCompare(b, "en", { numeric: true });

// `SomeWords` as `some-words`.
export const kebab = (name) => name.replace(/(?!^)[A-Z]/g, (letter) => `-${letter}`).toLowerCase();

// A variant of the code's enums: a name, or a name with something inside.
export function variant(value) {
  if (typeof value === "string") return [value, null];
  const [name] = Object.keys(value ?? { unknown: null });
  return [name, value?.[name] ?? null];
}

export function span(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit + 1 < units.length) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export const rateText = (value) => (value >= 10 || value < 0.05 ? count(Math.round(value)) : value.toFixed(1));

export function clock(ms) {
  const at = new Date(ms);
  const time = at.toLocaleTimeString("en-GB");
  return at.toDateString() === new Date().toDateString() ? time : `${at.toLocaleDateString("en-CA")} ${time}`;
}

// The slot of a key, as Redis Cluster defines it.
export function slotOf(key) {
  const text = new TextEncoder().encode(key);
  const open = text.indexOf(0x7b);
  const close = open < 0 ? -1 : text.indexOf(0x7d, open + 1);
  const hashed = close > open + 1 ? text.subarray(open + 1, close) : text;
  let crc = 0;
  for (const byte of hashed) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : (crc << 1) & 0xffff;
  }
  return crc % SLOTS;
}

// The first few of them.
export function few(numbers) {
  return `${numbers.slice(0, 8).join(", ")}${numbers.length > 8 ? " \u2026" : ""}`;
}
