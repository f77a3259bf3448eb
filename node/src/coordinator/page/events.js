// What happened of late, in words.

import { nodeName } from "./cluster.js";
import { count, kebab, plural, variant } from "./words.js";

const EVENTS_MAX = 40;
// Events of one kind within this time are told as one.
const TOGETHER_MS = 2000;

const EVENTS = {
  NodeHealth: ({ node, from, to }) => {
    const [word, reason] = variant(to);
    return {
      what: `${nodeName(node)} is ${word}`,
      more: [reason, `was ${variant(from)[0]}`].filter(Boolean).join(", "),
      tone: { down: "bad", suspect: "warn" }[word],
    };
  },
  PromotionStarted: ({ reason }) => ({ what: `looking for a primary: ${kebab(variant(reason)[0])}`, tone: "warn" }),
  PromotionAbandoned: () => ({ what: "no new primary is needed after all" }),
  PromotionBlocked: ({ have, need }) => ({
    what: "too few replicas answer for a promotion",
    more: `${have} of ${need} needed`,
    tone: "bad",
  }),
  Promoted: ({ took }) => ({ what: "a primary is named", took }),
  PossibleLoss: ({ entries_known }) => ({
    what: "acknowledged writes may be lost",
    more: `${count(entries_known)} entries known`,
    tone: "bad",
  }),
  Serving: ({ unserved }) => ({ what: "a primary serves", took: unserved }),
  HandOverOrdered: ({ to }) => ({ what: `asked to hand over to ${nodeName(to.node)}` }),
  Shrunk: ({ left }) => ({ what: `goes on with ${plural(left, "member", "members")}`, tone: "warn" }),
  LearnerAdded: ({ node }) => ({ what: `a replica is being made on ${nodeName(node)}` }),
  LearnerRemoved: ({ node }) => ({ what: `the replica on ${nodeName(node)} is given up` }),
  ReaderAdded: ({ node }) => ({ what: `${nodeName(node)} gets a copy for reads` }),
  ReaderRemoved: ({ node }) => ({ what: `${nodeName(node)} gives up its copy for reads` }),
  JointEntered: () => ({ what: "a joint configuration is entered" }),
  JointLeft: ({ direction }) => ({ what: `the joint configuration is left ${kebab(variant(direction)[0])}` }),
  Planned: ({ partitions, copies }) => ({
    what: `${plural(partitions, "partition gets", "partitions get")} other seats`,
    more: `${plural(copies, "replica has", "replicas have")} to be made`,
  }),
  ReplacementHeldBack: ({ down, nodes }) => ({
    what: "nobody is replaced",
    more: `${down} of ${nodes} nodes are down at once`,
    tone: "bad",
  }),
  ProposalRefused: ({ refusal }) => ({ what: "a proposal was refused", more: kebab(variant(refusal)[0]) }),
  RequestRefused: ({ reason }) => ({ what: "a request is refused", more: reason, tone: "warn" }),
};

// An event that this page does not know, or not in this form, is told by its name.
function inWords(kind, fields) {
  try {
    return EVENTS[kind](fields);
  } catch {
    return { what: kebab(kind).replaceAll("-", " ") };
  }
}

// Newest first; what happened to many partitions at once is told once.
export function together(noted) {
  const groups = [];
  for (const { atUnixMs, event } of [...noted].reverse()) {
    const [kind, fields] = variant(event);
    const told = inWords(kind, fields ?? {});
    const partition = fields?.partition ?? null;
    const same = groups
      .slice(-8)
      .find((g) => g.what === told.what && partition !== null && g.until - atUnixMs <= TOGETHER_MS);
    if (same) {
      same.at = atUnixMs;
      same.partitions.push(partition);
      same.took = Math.max(same.took ?? 0, told.took ?? 0);
    } else if (groups.length < EVENTS_MAX) {
      groups.push({ ...told, at: atUnixMs, until: atUnixMs, partitions: partition === null ? [] : [partition] });
    }
  }
  return groups;
}
