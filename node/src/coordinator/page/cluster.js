// What is known of the cluster, and what follows from it. Nothing here touches the page.

import { byName, clock, count, kebab, span, variant } from "./words.js";

export const known = {
  // The document, and when it came.
  status: null,
  at: 0,
  etag: null,
  // Since when there is no answer, and why; null while there are answers.
  lostSince: null,
  lostWhy: null,
  names: new Map(),
  // Entries per second by partition, and the commit index behind it.
  rates: new Map(),
};
// Whether a leader tells: nobody else knows how nodes and partitions are now.
export const leading = () => known.status.leading;
export const partitionWord = (partition) => (leading() ? partition.state : "unknown");
export const nodeName = (id) => known.names.get(id) ?? `node ${id}`;
export const isPrimary = (partition, replica) =>
  partition.primary !== null && partition.primary.replica === replica.member.replica;

// How many entries each primary committed since the last look.
export function measure(status, now) {
  const seconds = (now - known.at) / 1000;
  for (const partition of status.partitions) {
    const primary = partition.replicas.find((replica) => isPrimary(partition, replica));
    const commit = primary?.commit ?? null;
    const before = known.rates.get(partition.partition);
    if (commit === null || before === undefined || seconds <= 0) {
      known.rates.set(partition.partition, { commit, rate: before?.rate ?? 0 });
      continue;
    }
    const fresh = before.commit === null ? 0 : Math.max(0, commit - before.commit) / seconds;
    const rate = before.rate * 0.5 + fresh * 0.5;
    known.rates.set(partition.partition, { commit, rate: rate < 0.05 ? 0 : rate });
  }
}
export const rateOf = (partition) => known.rates.get(partition.partition)?.rate ?? 0;

// What is shown of each node and partition beyond the document's own fields.
export function derive(status) {
  known.names = new Map(status.nodes.map((node) => [node.id, node.name]));
  const ring = new Map((status.ring ?? []).map((member) => [member.node, member]));
  const load = new Map(status.nodes.map((node) => [node.id, { rate: 0, lag: 0 }]));
  for (const partition of status.partitions) {
    if (partition.primary !== null) {
      const of = load.get(partition.primary.node);
      if (of) of.rate += rateOf(partition);
    }
    for (const replica of partition.replicas) {
      const of = load.get(replica.member.node);
      if (of) of.lag = Math.max(of.lag, replica.lag ?? 0);
    }
  }
  const nodes = status.nodes.map((node) => ({ ...node, ...load.get(node.id), ring: ring.get(node.id) }));
  nodes.sort((a, b) => byName(a.name, b.name));
  return nodes;
}

export function nodeState(node) {
  // A member that is to hold nothing, or one that never comes back.
  const standing = node.leaving ?? kebab(node.standing);
  const [health, reason] = leading() ? variant(node.health) : ["unknown", null];
  const words = [];
  let tone = { up: "good", suspect: "warn", down: "bad" }[health] ?? "quiet";
  if (standing === "member") {
    words.push(health);
  } else {
    words.push(standing);
    if (standing === "gone") tone = "bad";
    else if (health === "up") tone = "making";
    if (node.empty) words.push("may be removed");
    if (health !== "up") words.push(health);
  }
  if (node.draining && standing !== "draining") {
    words.push("draining");
    if (tone === "good") tone = "making";
  }
  if (node.diskFull) {
    words.push("disk full");
    if (tone !== "bad") tone = "warn";
  }
  const more = [];
  if (reason) more.push(reason);
  if (health !== "up" && health !== "unknown") {
    more.push(`for ${span(node.healthForMs + (performance.now() - known.at))}`);
  }
  if (node.cordonedUntilUnixMs) more.push("cordoned");
  if (node.expectedBackUnixMs) more.push(`expected back ${clock(node.expectedBackUnixMs)}`);
  return { word: words.join(", "), tone, more: more.join(", "), health };
}

// What a cell of the plot says. Later ones are drawn over earlier ones where several
// partitions share a pixel.
export const MARKS = ["member", "primary", "making", "silent", "unserved"];
export function markOf(partition, replica) {
  if (leading()) {
    if (partition.state === "unserved" || partition.state === "promoting") return "unserved";
    if (!replica.up || replica.corrupt) return "silent";
  }
  if (replica.reader) return "member";
  if (replica.standing === "learner" || replica.standing === "joining") return "making";
  return isPrimary(partition, replica) ? "primary" : "member";
}

// What there is to say of a replica besides its node.
export function replicaNote(partition, replica) {
  const words = [];
  if (isPrimary(partition, replica)) words.push("(primary)");
  else if (replica.reader) words.push("(reads)");
  else if (replica.standing !== "member") words.push(`(${replica.standing})`);
  if (leading() && replica.corrupt) words.push("damaged");
  else if (leading() && !replica.up) words.push("silent");
  if (replica.lag) words.push(`\u2212${count(replica.lag)}`);
  return words.join(" ");
}

// Each replica that comes or goes; promotions that are equally far and for one reason
// are many at a time, and told as one.
export function underWay(status) {
  const found = [];
  const promotions = new Map();
  for (const partition of status.partitions) {
    if (partition.promotion) {
      const [step, reason] = partition.promotion;
      const what = `promotion: ${step}`;
      const why = kebab(variant(reason)[0]);
      const of = promotions.get(`${what} ${why}`);
      if (of) of.partitions.push(partition);
      else promotions.set(`${what} ${why}`, { partitions: [partition], what, tone: "bad", where: "", why });
    }
    const away = partition.replicas.filter((replica) => replica.standing !== "member" && !replica.reader);
    for (const replica of away) {
      const what = { learner: "being made", joining: "joins", leaving: "leaves" }[replica.standing] ?? replica.standing;
      const tone = replica.standing === "leaving" ? "quiet" : "making";
      found.push({ partitions: [partition], replica, what, tone, where: nodeName(replica.member.node), why: "" });
    }
    const seats = (partition.seats ?? []).map((seat) => (typeof seat === "object" ? seat.node : seat));
    const missing = seats.filter((node) => !partition.replicas.some((replica) => replica.member.node === node));
    if (missing.length > 0 && away.length === 0) {
      const where = missing.map(nodeName).join(", ");
      found.push({ partitions: [partition], what: "waits", tone: "quiet", where, why: "belongs there" });
    }
  }
  return [...promotions.values(), ...found];
}
