// Put before a page's own scripts: in the place of the coordinator's answer stands a cluster
// of `NODES` data nodes and `PARTITIONS` partitions, of which something changes at every look,
// with what a cluster tells while it moves.
(() => {
  const slots = 16384 / PARTITIONS;
  let looks = 0;
  const replica = (node, at, more) => ({
    member: { node, replica: at + 1 },
    standing: "member",
    up: true,
    role: "Replica",
    head: { epoch: 3, index: 1000 + looks },
    commit: 1000 + looks * (node % 7),
    applied: 1000,
    lag: at * looks,
    corrupt: false,
    ...more,
  });
  const node = (id) => ({
    id,
    name: `data-${id}`,
    zone: `zone-${id % 3}`,
    standing: "Member",
    leaving: id === 2 ? "draining" : undefined,
    health: id === 3 ? { down: "peers-confirm" } : "up",
    healthForMs: 1000,
    heardMsAgo: 5,
    draining: false,
    empty: id === 2,
    seats: id === 2 ? 0 : Math.round((PARTITIONS * 3) / NODES),
    diskFull: false,
    expectedBackUnixMs: null,
    leads: Math.round(PARTITIONS / NODES) + (id % 5),
    replicas: Math.round((PARTITIONS * 3) / NODES),
    diskTotalBytes: 2 ** 40,
    diskFreeBytes: 2 ** 39,
    readsPerSecond: 12.5,
    writesPerSecond: looks,
  });
  const partition = (at) => {
    const on = [0, 1, 2].map((step) => ((at * 7 + step * 11) % NODES) + 1);
    const replicas = on.map((id, step) => replica(id, step));
    if (at === 1) {
      replicas.push(
        replica((on[2] % NODES) + 1, 3, { standing: "learner", receivedBytes: 3 * 2 ** 20, expectedBytes: 4 * 2 ** 20 }),
      );
    }
    return {
      partition: at,
      slots: { first: at * slots, last: (at + 1) * slots - 1 },
      epoch: 3,
      state: at === 1 ? "moving" : "healthy",
      primary: replicas[0].member,
      serving: true,
      writeQuorum: 2,
      degraded: false,
      promotion: null,
      lossyPromotions: 0,
      lost: { entries_known: 0 },
      seats: at === 5 ? [on[0], on[1], (on[2] % NODES) + 1] : on,
      replicas,
    };
  };
  const document = () => {
    const count = (number) => Array.from({ length: number }, (_, at) => at);
    return {
      clusterId: "large",
      version: 9,
      summary: {
        partitions: PARTITIONS, serving: PARTITIONS, degraded: 0, moving: 1,
        nodesUp: NODES - 1, nodes: NODES, lossyPromotions: 0,
      },
      rebalance: { paused: true, planned: true, heldBack: false, underWay: 1, waiting: 1, toAdjust: 0, bytesLeft: 2 ** 20 },
      nodes: count(NODES).map((at) => node(at + 1)),
      partitions: count(PARTITIONS).map(partition),
      answeredBy: "coordinator-1",
      leading: true,
      term: 1,
      http: "",
      coordinators: [],
      settings: { replication_factor: 3, write_quorum: 2 },
      events: [{ atUnixMs: 1, event: { SomethingNew: { partition: 4 } } }],
    };
  };
  const fetched = window.fetch;
  window.fetch = (address, options) => {
    if (!String(address).endsWith("/status.json")) return fetched(address, options);
    looks += 1;
    window.looks = looks;
    return Promise.resolve(new Response(JSON.stringify(document()), { headers: { ETag: `"${looks}"` } }));
  };
})();
