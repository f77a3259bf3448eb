// The status page: asks for the status document every second and shows what changed.
//
// Fields that this build does not know are left alone, and those that are absent are not
// shown.

import {
  derive,
  isPrimary,
  known,
  leading,
  MARKS,
  markOf,
  measure,
  nodeName,
  nodeState,
  partitionWord,
  rateOf,
  replicaNote,
  underWay,
} from "./cluster.js";
import { together } from "./events.js";
import { byId, make, pairs, say, state, Table, withBar } from "./table.js";
import { byName, bytes, clock, count, few, plural, rateText, slotOf, SLOTS, span } from "./words.js";

const DOCUMENT = "/status.json";
const EVERY_MS = 1000;
// How long an answer may take.
const PATIENCE_MS = 8000;
// Asking and drawing take this part of the time at most, however large the cluster is.
const SHARE = 1 / 5;
const ROWS_PER_PAGE = 128;
const UNDER_WAY_MAX = 40;

// ---- data nodes --------------------------------------------------------------------

// The largest of each figure that has a bar.
const largest = { leads: 1, replicas: 1, rate: 1, reads: 1, writes: 1 };
const has = (field) => (items) => items.some((item) => item[field] !== undefined && item[field] !== null);
const nodes = new Table(
  "nodes",
  [
    {
      label: "Node",
      text: (node) => node.name,
      draw: (node) => {
        const button = make("button", { type: "button", class: "link", title: "Show its partitions" }, node.name);
        button.addEventListener("click", () => {
          byId("filter-node").value = String(node.id);
          byId("filter-node").dispatchEvent(new Event("change"));
          byId("partitions").focus();
          byId("partitions").scrollIntoView();
        });
        return button;
      },
    },
    {
      label: "State",
      state: true,
      text: (node) => Object.values(nodeState(node)).join(" "),
      draw: (node) => {
        const { word, tone, more } = nodeState(node);
        return state(word, tone, more);
      },
    },
    { label: "Zone", when: (items) => items.some((node) => node.zone !== ""), text: (node) => node.zone },
    {
      label: "Leads",
      title: "Partitions that it is primary of",
      number: true,
      text: (node) => `${node.leads}/${largest.leads}`,
      draw: (node) => withBar(count(node.leads), node.leads / largest.leads),
    },
    {
      label: "Replicas",
      title: "Replicas on it, those included that it leads",
      number: true,
      text: (node) => `${node.replicas}/${largest.replicas}`,
      draw: (node) => withBar(count(node.replicas), node.replicas / largest.replicas),
    },
    {
      label: "Seats",
      title: "Replicas that belong on it",
      number: true,
      // Where every replica is where it belongs, they say the same twice.
      when: (items) => items.some((node) => node.seats !== undefined && node.seats !== node.replicas),
      text: (node) => count(node.seats),
    },
    {
      label: "Ring",
      title: "The part of the ring that falls to its virtual nodes",
      number: true,
      when: has("ring"),
      text: (node) => (node.ring ? `${(node.ring.share * 100).toFixed(1)} %` : ""),
    },
    {
      label: "Entries/s",
      title: "Entries that its primaries commit, from their commit indexes",
      number: true,
      when: (items) => !has("writesPerSecond")(items),
      text: (node) => `${rateText(node.rate)}/${rateText(largest.rate)}`,
      draw: (node) => withBar(rateText(node.rate), node.rate / largest.rate),
    },
    ...["reads", "writes"].map((kind) => {
      // What a node told before it fell silent is not its load now.
      const of = (node) => (node.health === "up" ? (node[`${kind}PerSecond`] ?? 0) : 0);
      return {
        label: kind === "reads" ? "Reads/s" : "Writes/s",
        title: `${kind === "reads" ? "Reads" : "Writes"} of clients, smoothed over some ten seconds`,
        number: true,
        when: has(`${kind}PerSecond`),
        text: (node) => `${rateText(of(node))}/${rateText(largest[kind])}`,
        draw: (node) => withBar(rateText(of(node)), of(node) / largest[kind]),
      };
    }),
    {
      label: "Lag",
      title: "Entries that the replica which is furthest behind lacks",
      number: true,
      text: (node) => count(node.lag),
    },
    {
      label: "Disk free",
      number: true,
      when: has("diskTotalBytes"),
      text: (node) =>
        node.diskTotalBytes ? `${bytes(node.diskFreeBytes ?? 0)} of ${bytes(node.diskTotalBytes)}` : "",
    },
    { label: "Redis", when: has("ring"), text: (node) => node.ring?.resp ?? "" },
  ],
  { named: true },
);

// ---- coordinators and settings -----------------------------------------------------

function coordinatorState(coordinator) {
  const role = coordinator.leader ? "leader" : coordinator.voter ? "follower" : "joining";
  if (coordinator.answers === false) return { word: `${role}, silent`, tone: "bad" };
  return { word: role, tone: coordinator.answers === undefined && !coordinator.leader ? "quiet" : "good" };
}
const coordinators = new Table(
  "coordinators",
  [
    { label: "Coordinator", text: (coordinator) => coordinator.name },
    {
      label: "State",
      state: true,
      text: (coordinator) => Object.values(coordinatorState(coordinator)).join(" "),
      draw: (coordinator) => {
        const { word, tone } = coordinatorState(coordinator);
        return state(word, tone);
      },
    },
    { label: "gRPC", text: (coordinator) => coordinator.client },
  ],
  { named: true },
);

const SETTINGS = [
  ["replication_factor", "replication factor"],
  ["write_quorum", "write quorum"],
  ["min_in_sync", "min in sync"],
  ["read_level", "read level"],
  ["virtual_nodes", "virtual nodes of weight 100"],
  ["lease_ms", "lease", (value) => span(value)],
  ["node_timeout_ms", "node timeout", (value) => span(value)],
  ["replace_after_ms", "replace after", (value) => span(value)],
  ["moves_per_node", "moves per node"],
  ["idempotence_window", "idempotence window"],
];

function showSettings(settings) {
  const told = SETTINGS.filter(([field]) => settings?.[field] !== undefined).map(([field, name, text]) => {
    const value = settings[field];
    return { name, value: text ? text(value) : typeof value === "number" ? count(value) : String(value) };
  });
  pairs(byId("settings"), told);
}

function showSummary(status, total) {
  const { summary } = status;
  const unserved = summary.partitions - summary.serving;
  const voters = status.coordinators.filter((coordinator) => coordinator.voter);
  const silent = voters.filter((coordinator) => coordinator.answers === false).length;
  const tile = (name, value, more, tone) => ({ name, value, more, tone, inDiv: true });
  const unknown = !status.leading;
  pairs(byId("summary"), [
    tile(
      "Partitions served",
      unknown ? "?" : count(summary.serving),
      `of ${count(summary.partitions)}`,
      !unknown && unserved > 0 ? "bad" : "",
    ),
    tile("Degraded", count(summary.degraded), "", summary.degraded > 0 ? "warn" : ""),
    tile("Moving", count(summary.moving), ""),
    tile(
      "Data nodes up",
      unknown ? "?" : count(summary.nodesUp),
      `of ${count(summary.nodes)}`,
      !unknown && summary.nodesUp < summary.nodes ? "bad" : "",
    ),
    tile("Coordinators", count(voters.length - silent), `of ${voters.length}`, silent > 0 ? "bad" : ""),
    tile("Entries/s", rateText(total), ""),
    tile(
      "Possible losses",
      count(summary.lossyPromotions),
      summary.lossyPromotions > 0 ? "promotions" : "",
      summary.lossyPromotions > 0 ? "bad" : "",
    ),
  ]);
  const sentence = unknown
    ? "How nodes and partitions are now is not known."
    : `${summary.serving} of ${summary.partitions} partitions are served, ` +
      `${summary.nodesUp} of ${summary.nodes} data nodes are up.`;
  say(byId("announcement"), sentence);
  const trouble = unknown || unserved > 0 || summary.nodesUp < summary.nodes;
  document.title = trouble ? `\u26a0 Cairn: ${sentence}` : "Cairn";
}

// ---- who holds what ----------------------------------------------------------------

const plot = { rows: [], row: 18, pointed: null, columns: [] };
const canvas = byId("placement-canvas");
const WHOLE_RING = 65536;
const ORDERS = {
  slots: {
    ends: ["slot 0", "16383"],
    says: "Each column is a partition, in the order of its slots; each row a data node.",
  },
  ring: {
    ends: ["0", "the ring closes"],
    says:
      "Each tick is a virtual node, each mark a partition, where its walk begins. The first virtual node to the right " +
      "owns it; the next distinct nodes hold its replicas, unless they have their share already.",
  },
};
const order = () => byId("placement-order").value;

function showPlacement(status, shownNodes) {
  plot.rows = shownNodes;
  plot.row = shownNodes.length <= 12 ? 20 : shownNodes.length <= 30 ? 15 : 11;
  byId("placement").style.setProperty("--row", `${plot.row}px`);
  const names = byId("placement-names");
  while (names.children.length > shownNodes.length) names.lastChild.remove();
  while (names.children.length < shownNodes.length) names.append(make("li"));
  shownNodes.forEach((node, at) => {
    const item = names.children[at];
    say(item, node.name);
    item.dataset.state = nodeState(node).health;
  });
  // A coordinator of another build may not tell where things are on the ring.
  const untold = status.ringPositions?.length !== status.partitions.length;
  byId("placement-order").parentElement.hidden = untold;
  if (untold) byId("placement-order").value = "slots";
  const unserved = status.summary.partitions - status.summary.serving;
  canvas.setAttribute(
    "aria-label",
    `${plural(status.partitions.length, "partition", "partitions")} over ` +
      `${plural(shownNodes.length, "data node", "data nodes")}; ` +
      `${status.leading ? unserved : "an unknown number"} not served. The table of partitions tells the same.`,
  );
  readout();
  draw();
}

// Where each partition begins and ends across the plot, from 0 to 1.
function columns(status, narrowest) {
  const count = status.partitions.length;
  if (order() === "slots") return status.partitions.map((_, at) => [at / count, (at + 1) / count]);
  const wide = Math.max(narrowest, 1 / (count * 2));
  return status.ringPositions.map((position) => [position / WHOLE_RING, position / WHOLE_RING + wide]);
}

function draw() {
  const { status } = known;
  const width = canvas.parentElement.clientWidth;
  const height = plot.rows.length * plot.row;
  const scale = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const style = getComputedStyle(document.documentElement);
  const context = canvas.getContext("2d");
  const rowOf = new Map(plot.rows.map((node, at) => [node.id, at]));
  const tall = Math.round((plot.row - (plot.row > 12 ? 3 : 2)) * scale);
  const top = (row) => Math.round(row * plot.row * scale);
  plot.columns = columns(status, 2 / Math.max(1, width));
  const cells = Object.fromEntries(MARKS.map((mark) => [mark, []]));
  status.partitions.forEach((partition, at) => {
    const [left, right] = plot.columns[at].map((part) => Math.round(part * canvas.width));
    const gap = right - left >= 4 * scale ? scale : 0;
    for (const replica of partition.replicas) {
      const row = rowOf.get(replica.member.node);
      if (row !== undefined) cells[markOf(partition, replica)].push([left, Math.max(1, right - left - gap), row]);
    }
  });
  context.fillStyle = style.getPropertyValue("--ground");
  plot.rows.forEach((_, row) => context.fillRect(0, top(row), canvas.width, tall));
  if (order() === "ring") {
    context.fillStyle = style.getPropertyValue("--tick");
    plot.rows.forEach((node, row) => {
      for (const position of node.ring?.points ?? []) {
        context.fillRect(Math.round((position / WHOLE_RING) * canvas.width), top(row), scale, tall);
      }
    });
  }
  for (const mark of MARKS) {
    context.fillStyle = style.getPropertyValue(`--${mark}`);
    for (const [left, wide, row] of cells[mark]) context.fillRect(left, top(row), wide, tall);
  }
  if (plot.pointed !== null && plot.columns[plot.pointed]) {
    const [left, right] = plot.columns[plot.pointed].map((part) => part * canvas.width);
    context.strokeStyle = style.getPropertyValue("--ink");
    context.lineWidth = scale;
    context.strokeRect(Math.round(left) - scale / 2, scale / 2, Math.max(2 * scale, right - left), canvas.height - scale);
  }
}

function replicaText(partition, replica) {
  return `${nodeName(replica.member.node)} ${replicaNote(partition, replica)}`.trim();
}

function point(event) {
  const box = canvas.getBoundingClientRect();
  const part = (event.clientX - box.left) / box.width;
  const away = ([left, right]) => Math.abs((left + right) / 2 - part);
  plot.pointed = null;
  if (event.type !== "pointerleave") {
    plot.columns.forEach((column, at) => {
      if (plot.pointed === null || away(column) < away(plot.columns[plot.pointed])) plot.pointed = at;
    });
  }
  readout();
  draw();
}

function readout() {
  const partition = known.status.partitions[plot.pointed];
  const { ends, says } = ORDERS[order()];
  const text = partition
    ? `Partition ${partition.partition}, slots ${partition.slots.first} to ${partition.slots.last}, ` +
      `${partitionWord(partition)}: ` +
      partition.replicas.map((replica) => replicaText(partition, replica)).join(", ")
    : says;
  say(byId("placement-readout"), text);
  [...byId("placement-axis").children].forEach((end, at) => say(end, ends[at]));
}
byId("placement-order").addEventListener("change", () => {
  readout();
  draw();
});
canvas.addEventListener("pointermove", point);
canvas.addEventListener("pointerleave", point);
canvas.addEventListener("click", () => {
  const partition = known.status.partitions[plot.pointed];
  if (partition === undefined) return;
  byId("filter-slot").value = String(partition.slots.first);
  showPartitions();
});

// ---- under way ---------------------------------------------------------------------

function progressOf({ replica, why }) {
  if (replica === undefined) return { text: why };
  if (replica.expectedBytes) {
    const done = replica.receivedBytes ?? 0;
    return { text: `${bytes(done)} of ${bytes(replica.expectedBytes)}`, part: done / replica.expectedBytes };
  }
  return { text: replica.lag === null ? "" : `${plural(replica.lag, "entry", "entries")} behind` };
}

const moving = new Table("moving", [
  {
    label: "Partition",
    text: ({ partitions }) => {
      const numbers = few(partitions.map((partition) => partition.partition));
      return partitions.length === 1 ? numbers : `${count(partitions.length)}: ${numbers}`;
    },
  },
  {
    label: "What",
    state: true,
    text: ({ what }) => what,
    draw: ({ what, tone }) => state(what, tone),
  },
  { label: "Where", text: ({ where }) => where },
  {
    label: "How far",
    wide: true,
    text: (item) => progressOf(item).text,
    draw: (item) => {
      const { text, part } = progressOf(item);
      if (part === undefined) return text;
      return [make("progress", { max: 1, value: part, "aria-label": "copied" }), text];
    },
  },
]);

function showUnderWay(status) {
  const found = underWay(status);
  const { paused, heldBack, underWay: made, waiting, bytesLeft } = status.rebalance ?? {};
  const words = [];
  if (paused) words.push("moves are paused");
  if (heldBack) words.push("nobody is replaced, for too many nodes are down at once");
  if (made || waiting) words.push(`${count(made)} being made, ${count(waiting)} waiting`);
  if (bytesLeft) words.push(`about ${bytes(bytesLeft)} left`);
  if (found.length > UNDER_WAY_MAX) words.push(`the first ${UNDER_WAY_MAX} of ${count(found.length)} are shown`);
  say(byId("moving-count"), words.join("; "));
  moving.show(
    found.slice(0, UNDER_WAY_MAX),
    ({ partitions, replica, what, why }) =>
      replica ? `${partitions[0].partition} ${replica.member.replica}` : `${what} ${why} ${partitions[0].partition}`,
    leading() ? "Nothing moves, and no primary is being looked for." : "Not known without a leader.",
  );
}

// ---- what is hot --------------------------------------------------------------------
// Keys are shown as the nodes tell of them: by their hashes, unless they were told to name them.

const hot = new Table(
  "hot",
  [
    { label: "What", wide: true, text: ({ key }) => key ?? "the partition" },
    { label: "Partition", number: true, text: ({ partition }) => count(partition) },
    { label: "Reads/s", number: true, text: ({ readsPerSecond }) => count(readsPerSecond) },
    { label: "Writes/s", number: true, text: ({ writesPerSecond }) => count(writesPerSecond) },
    { label: "Bytes/s", number: true, text: ({ bytesPerSecond }) => bytes(bytesPerSecond) },
    {
      label: "Processor",
      number: true,
      text: ({ processorMicrosPerSecond: micros }) => (micros === undefined ? "" : `${(micros / 1e4).toFixed(1)} %`),
    },
    { label: "For", number: true, text: ({ hotForMs }) => (hotForMs === undefined ? "" : span(hotForMs)) },
  ],
  { named: true },
);

function showHot(status) {
  const { partitions = [], keys = [] } = status.heat ?? {};
  const found = [...keys, ...partitions];
  byId("hot-section").hidden = found.length === 0;
  hot.show(found, ({ partition, key }) => `${partition} ${key ?? ""}`, "");
}

// ---- partitions --------------------------------------------------------------------

const TONES = {
  healthy: "good",
  moving: "making",
  "member-silent": "warn",
  degraded: "warn",
  promoting: "bad",
  unserved: "bad",
};
const SEVERITY = ["unserved", "promoting", "degraded", "moving", "member-silent", "healthy"];
const lagOf = (partition) => partition.replicas.reduce((most, replica) => Math.max(most, replica.lag ?? 0), 0);

function replicaTone(partition, replica) {
  const mark = markOf(partition, replica);
  if (mark === "silent") return replica.corrupt ? "bad" : "warn";
  return mark === "making" ? "making" : "";
}

const table = new Table(
  "table",
  [
    { label: "Partition", number: true, order: (p) => p.partition, text: (p) => String(p.partition) },
    {
      label: "State",
      state: true,
      order: (p) => SEVERITY.indexOf(p.state),
      text: (p) => `${partitionWord(p)} ${p.promotion ?? ""} ${p.lossyPromotions}`,
      draw: (p) => {
        const more = p.lossyPromotions > 0 ? "may have lost writes" : "";
        return state(partitionWord(p), TONES[partitionWord(p)] ?? "quiet", more);
      },
    },
    { label: "Slots", text: (p) => `${p.slots.first}\u2013${p.slots.last}` },
    { label: "Epoch", number: true, order: (p) => p.epoch, text: (p) => count(p.epoch) },
    { label: "W", title: "The write quorum in force", number: true, text: (p) => String(p.writeQuorum) },
    {
      label: "Primary",
      order: (p) => (p.primary ? nodeName(p.primary.node) : ""),
      text: (p) => (p.primary ? nodeName(p.primary.node) : "none"),
    },
    {
      label: "Other replicas",
      title: "Behind each, how many entries it lacks",
      wide: true,
      text: (p) => p.replicas.map((replica) => replicaText(p, replica) + replicaTone(p, replica)).join(", "),
      draw: (p) => {
        const others = p.replicas.filter((replica) => !isPrimary(p, replica));
        const items = others.map((replica) => {
          const item = make("li", { "data-tone": replicaTone(p, replica) }, nodeName(replica.member.node));
          const note = replicaNote(p, replica);
          if (note) item.append(" ", make("small", {}, note));
          return item;
        });
        return make("ul", { class: "replicas" }, ...items);
      },
    },
    { label: "Lag", title: "Of the replica that is furthest behind", number: true, order: lagOf, text: (p) => count(lagOf(p)) },
    {
      label: "Entries/s",
      title: "Entries committed, from the primary's commit index",
      number: true,
      order: rateOf,
      text: (p) => rateText(rateOf(p)),
    },
    {
      label: "Reads/s",
      title: "What clients read, as the data nodes tell it of their busiest partitions",
      number: true,
      when: (items) => items.some((p) => p.load),
      order: (p) => p.load?.readsPerSecond ?? 0,
      text: (p) => (p.load ? count(p.load.readsPerSecond) : ""),
    },
  ],
  { named: true, sort: sortBy },
);

const choice = { page: 0, column: null, down: false };
function sortBy(column) {
  // What is most is what one looks for first; of names and numbers, the first.
  const first = column.label !== "Partition" && column.number === true;
  choice.down = choice.column === column ? !choice.down : first;
  choice.column = column;
  choice.page = 0;
  for (const other of table.columns) {
    if (other !== column) other.head?.removeAttribute("aria-sort");
  }
  column.head.setAttribute("aria-sort", choice.down ? "descending" : "ascending");
  showPartitions();
}

function chosen(partitions) {
  const wanted = byId("filter-state").value;
  const node = byId("filter-node").value;
  const slot = byId("filter-slot").value.trim();
  let found = partitions;
  if (wanted === "!healthy") found = found.filter((p) => partitionWord(p) !== "healthy");
  else if (wanted !== "") found = found.filter((p) => partitionWord(p) === wanted);
  if (node !== "") found = found.filter((p) => p.replicas.some((r) => String(r.member.node) === node));
  if (slot !== "") {
    const number = /^\d{1,5}$/.test(slot) && Number(slot) < SLOTS ? Number(slot) : slotOf(slot);
    found = found.filter((p) => p.slots.first <= number && number <= p.slots.last);
  }
  if (choice.column) {
    const { order } = choice.column;
    const sign = choice.down ? -1 : 1;
    found = [...found].sort((a, b) => {
      const [x, y] = [order(a), order(b)];
      return sign * (typeof x === "string" ? byName(x, y) : x - y) || a.partition - b.partition;
    });
  }
  return found;
}

function showPartitions() {
  const found = chosen(known.status.partitions);
  const pages = Math.max(1, Math.ceil(found.length / ROWS_PER_PAGE));
  choice.page = Math.min(choice.page, pages - 1);
  const from = choice.page * ROWS_PER_PAGE;
  const page = found.slice(from, from + ROWS_PER_PAGE);
  table.show(page, (p) => p.partition, "No partition is like that.");
  byId("pages").hidden = pages === 1;
  say(byId("page-text"), `${count(from + 1)} to ${count(from + page.length)} of ${count(found.length)}`);
  byId("before").disabled = choice.page === 0;
  byId("after").disabled = choice.page === pages - 1;
}

function turn(by) {
  choice.page += by;
  showPartitions();
}
byId("before").addEventListener("click", () => turn(-1));
byId("after").addEventListener("click", () => turn(1));
byId("filter").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["filter-state", "filter-node", "filter-slot"]) {
  byId(id).addEventListener(id === "filter-slot" ? "input" : "change", () => {
    choice.page = 0;
    if (known.status) showPartitions();
  });
}

function offerNodes(shownNodes) {
  const select = byId("filter-node");
  const wanted = shownNodes.map((node) => `${node.id} ${node.name}`).join("\n");
  if (select.said === wanted) return;
  select.said = wanted;
  const before = select.value;
  select.replaceChildren(
    make("option", { value: "" }, "all"),
    ...shownNodes.map((node) => make("option", { value: node.id }, node.name)),
  );
  select.value = before;
  if (select.selectedIndex < 0) select.value = "";
}

// ---- events ------------------------------------------------------------------------

function showEvents(noted) {
  const last = noted.at(-1);
  const said = `${noted.length} ${last?.atUnixMs} ${noted[0]?.atUnixMs} ${[...known.names]}`;
  const list = byId("events");
  if (list.said === said) return;
  list.said = said;
  const items = together(noted).map(({ what, more, tone, took, at, partitions }) => {
    const of = [...new Set(partitions)].sort((a, b) => a - b);
    const parts = [];
    if (of.length === 1) parts.push(`partition ${of[0]}`);
    else if (of.length > 1) {
      parts.push(`${of.length} partitions: ${few(of)}`);
    }
    if (took) parts.push(`${of.length > 1 ? "the slowest after" : "after"} ${span(took / 1000)}`);
    if (more) parts.push(more);
    const time = make("time", { datetime: new Date(at).toISOString() }, clock(at));
    const text = make("span", {}, make("span", { "data-tone": tone }, what));
    if (parts.length > 0) text.append(make("small", {}, parts.join("; ")));
    return make("li", {}, time, text);
  });
  if (items.length === 0) items.push(make("li", { class: "nothing" }, "Nothing since this leader was elected."));
  list.replaceChildren(...items);
}

// ---- all of it ---------------------------------------------------------------------

function show(status) {
  const shownNodes = derive(status);
  const total = shownNodes.reduce((sum, node) => sum + node.rate, 0);
  for (const [figure, field] of Object.entries({
    leads: "leads",
    replicas: "replicas",
    rate: "rate",
    reads: "readsPerSecond",
    writes: "writesPerSecond",
  })) {
    largest[figure] = Math.max(1, ...shownNodes.map((node) => node[field] ?? 0));
  }
  byId("content").hidden = false;
  say(byId("cluster"), status.clusterId);
  say(
    byId("source"),
    `${status.leading ? `${status.answeredBy} leads` : `told by ${status.answeredBy}`}, ` +
      `term ${count(status.term)}, map ${count(status.version)}`,
  );
  showSummary(status, total);
  showPlacement(status, shownNodes);
  nodes.show(shownNodes, (node) => node.id, "No data node has registered yet.");
  const sorted = [...status.coordinators].sort((a, b) => byName(a.name, b.name));
  coordinators.show(sorted, (coordinator) => coordinator.raftId, "There is no group yet.");
  showSettings(status.settings);
  showHot(status);
  showUnderWay(status);
  offerNodes(shownNodes);
  showPartitions();
  showEvents(status.events);
}

// What a person must know before believing the rest.
function warn() {
  const banner = byId("banner");
  const { status, lostSince, lostWhy } = known;
  let text = "";
  if (lostSince) {
    text = `No status from ${location.host} since ${clock(lostSince)} (${lostWhy}); it is asked for again every second.`;
    if (status) text += " What follows is what was known then.";
  } else if (status && status.clusterId === "") {
    text = "The cluster is not made yet.";
  } else if (status && !status.leading) {
    const leader = status.coordinators.find((coordinator) => coordinator.leader);
    text = leader
      ? `${status.answeredBy} answers, and does not lead. ${leader.name} does (gRPC at ${leader.client}) but gives it no answer: how nodes and partitions are now is not known here.`
      : "The coordinators have no leader: reads and writes go on, but nothing is promoted or moved, and how nodes and partitions are now is not known.";
  } else if (status && status.partitions.length === 0) {
    text = `The partitions are placed once ${status.settings?.initial_data_nodes ?? "enough"} data nodes have registered; ${status.nodes.length} have.`;
  }
  banner.dataset.state = lostSince ? "lost" : "";
  banner.hidden = text === "";
  say(banner, text);
  const connection = lostSince ? "lost" : status ? "live" : "waiting";
  byId("connection").dataset.state = connection;
  say(byId("connection-text"), { lost: "connection lost", live: "live", waiting: "connecting" }[connection]);
}

// One question: what changed since the last answer.
async function ask() {
  const headers = known.etag ? { "If-None-Match": known.etag } : {};
  const response = await fetch(DOCUMENT, { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (response.status !== 304 && !response.ok) throw new Error(`the answer is ${response.status}`);
  const status = response.status === 304 ? known.status : await response.json();
  const now = performance.now();
  if (status.leading) measure(status, now);
  if (status === known.status) {
    // Ages grow on by themselves.
    const passed = now - known.at;
    for (const node of status.nodes) node.healthForMs += passed;
  }
  known.etag = response.headers.get("ETag");
  known.status = status;
  known.at = now;
}

let timer = null;
async function turnAround() {
  timer = null;
  const begun = performance.now();
  try {
    await ask();
    known.lostSince = null;
  } catch (error) {
    // The banner says it, and it is asked again.
    known.lostWhy = error.message;
    known.lostSince ??= Date.now();
  }
  try {
    warn();
    if (!known.lostSince) show(known.status);
  } finally {
    const took = performance.now() - begun;
    again(Math.max(EVERY_MS - took, took / SHARE - took));
  }
}
function again(after) {
  if (document.hidden || timer !== null) return;
  timer = setTimeout(turnAround, after);
}

document.addEventListener("visibilitychange", () => again(0));
window.addEventListener("resize", () => known.status && draw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => known.status && draw());
turnAround();
