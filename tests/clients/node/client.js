// node-redis in cluster mode: see ../README.md.

import readline from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { RESP_TYPES, createCluster } from 'redis';

const TRIES = 60;
const PAUSE_MS = 100;

function fail(text) {
  console.log(text);
  process.exit(1);
}

function check(what, got, wanted) {
  if (!isDeepStrictEqual(got, wanted)) {
    fail(`${what}: got ${JSON.stringify(got)}, wanted ${JSON.stringify(wanted)}`);
  }
}

// Looks until there is something true: what comes is not yet there at once.
async function until(what, look) {
  for (let tried = 0; tried < TRIES; tried += 1) {
    if (await look()) return;
    await sleep(PAUSE_MS);
  }
  fail(`${what}: not within ${TRIES} looks`);
}

async function refused(what, call, words) {
  let got;
  try {
    got = await call();
  } catch (error) {
    check(`${what}: ${error.message}`, error.message.includes(words), true);
    return;
  }
  fail(`${what}: got ${got}, wanted the error ${words}`);
}

async function connect(options) {
  const [host, port] = process.argv.slice(2);
  const cluster = createCluster({
    rootNodes: [{ url: `redis://${host}:${port}` }],
    ...options,
    defaults: {
      // A command fails where its node is away, rather than wait for it for ever.
      disableOfflineQueue: true,
      socket: { connectTimeout: 1000, reconnectStrategy: (tries) => Math.min(50 * tries, 500) },
    },
  });
  // Without a listener an error would end the process.
  cluster.on('error', () => {});
  cluster.on('node-error', () => {});
  await cluster.connect();
  return cluster;
}

// Everything that needs no failure.
async function commands(client, name) {
  const key = `node:${name}:a`;
  check('SET', await client.set(key, '1'), 'OK');
  check('GET', await client.get(key), '1');
  check('GET of nothing', await client.get(`${key}:none`), null);
  check('SET NX', await client.set(key, '2', { condition: 'NX' }), null);
  check('SET XX GET', await client.set(key, '3', { condition: 'XX', GET: true }), '1');
  check('SETNX', await client.setNX(`node:${name}:nx`, '1'), 1);
  check('STRLEN', await client.strLen(key), 1);
  check('TYPE', await client.type(key), 'string');
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, at) => at));
  const binary = Buffer.concat([Buffer.from('node:\0'), Buffer.from([255, 13, 10]), Buffer.from(name)]);
  const buffers = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  check('SET of bytes', (await buffers.set(binary, bytes)).toString(), 'OK');
  check('GET of bytes', await buffers.get(binary), bytes);
  const large = 'x'.repeat(1 << 20);
  check('SET of 1 MiB', await client.set(key, large), 'OK');
  check('GET of 1 MiB', (await client.get(key)) === large, true);

  const counter = `node:${name}:counter`;
  await client.del(counter);
  check('INCR', await client.incr(counter), 1);
  check('INCRBY', await client.incrBy(counter, 41), 42);
  check('DECR', await client.decr(counter), 41);
  await client.set(counter, 'no number');
  await refused('INCR of text', () => client.incr(counter), 'not an integer');

  await client.set(key, 'soon gone', { expiration: { type: 'PX', value: 300 } });
  const left = await client.pTTL(key);
  check('PTTL', left > 0 && left <= 300, true);
  await until('expiry', async () => (await client.get(key)) === null);
  await client.set(key, 'stays', { expiration: { type: 'EX', value: 1000 } });
  check('TTL', (await client.ttl(key)) > 900, true);

  // Calls of one turn of the event loop travel as one pipeline to each node.
  const numbers = Array.from({ length: 300 }, (_, number) => number);
  const piped = (number) => `node:${name}:pipe:${number}`;
  await Promise.all(numbers.map((number) => client.set(piped(number), String(number))));
  const got = await Promise.all(numbers.map((number) => client.get(piped(number))));
  check('pipeline', got, numbers.map(String));

  const tag = (number) => `node:{${name}}:${number}`;
  for (let number = 0; number < 5; number += 1) await client.set(tag(number), String(number));
  check('MGET', await client.mGet([tag(0), tag(4), tag(9)]), ['0', '4', null]);
  check('EXISTS', await client.exists([tag(0), tag(1), tag(9)]), 2);
  check('DEL', await client.del([tag(0), tag(1)]), 2);
  const node = await client.nodeClient(client.masters[0]);
  await refused('keys of several slots', () => node.sendCommand(['MGET', 'a', 'b']), 'CROSSSLOT');
}

// From replicas too, which may lag behind.
async function replicaReads(client) {
  const reader = await connect({ useReplicas: true });
  for (let number = 0; number < 100; number += 1) {
    const key = `node:replica:${number}`;
    await client.set(key, String(number));
    await until(`a replica's ${key}`, async () => (await reader.get(key)) === String(number));
  }
  checkPrimaries(reader);
  reader.destroy();
}

// Every node that leads a slot must be among those that it takes for primaries.
function checkPrimaries(client) {
  const primaries = new Set(client.masters.map((node) => node.address));
  for (const slot of client.slots) check(slot.master.address, primaries.has(slot.master.address), true);
}

// DBSIZE and SCAN at every node that the client takes for a primary.
async function allPrimaries(client) {
  checkPrimaries(client);
  const primaries = client.masters;
  const one = await client.nodeClient(primaries[0]);
  const [info] = await one.sendCommand(['COMMAND', 'INFO', 'scan']);
  if (info === null) {
    console.log('the server has no SCAN yet');
    return;
  }
  for (let number = 0; number < 500; number += 1) await client.set(`node:scan:${number}`, '1');
  const found = new Set();
  let size = 0;
  for (const primary of primaries) {
    const node = await client.nodeClient(primary);
    size += await node.dbSize();
    for await (const keys of node.scanIterator({ MATCH: 'node:scan:*', COUNT: 50 })) {
      for (const key of keys) found.add(key);
    }
  }
  check('SCAN', found.size, 500);
  check('DBSIZE', size >= 500, true);
}

// Writes go on while a node is killed.
async function failover(client) {
  let killed = false;
  const input = readline.createInterface({ input: process.stdin });
  input.on('line', (line) => {
    killed = line.trim() === 'killed';
  });
  const seen = new Map();
  let most = 0;
  let written = 0;
  for (let after = 0; after < 700; written += 1) {
    if (written === 300) console.log('kill');
    if (killed) after += 1;
    for (let attempt = 1; ; attempt += 1) {
      most = Math.max(most, attempt);
      try {
        await client.set(`node:run:${written}`, String(written));
        break;
      } catch (error) {
        const kind = `${error.constructor.name}: ${error.message}`.slice(0, 80);
        seen.set(kind, (seen.get(kind) ?? 0) + 1);
        if (attempt === TRIES) fail(`write ${written} failed ${TRIES} times: ${kind}`);
        await sleep(PAUSE_MS);
      }
    }
  }
  for (let number = 0; number < written; number += 1) {
    await until(`read back ${number}`, async () => {
      try {
        return (await client.get(`node:run:${number}`)) === String(number);
      } catch {
        return false;
      }
    });
  }
  input.close();
  console.log(`${written} writes acknowledged and read back, one tried ${most} times at most`);
  for (const [kind, count] of seen) console.log(`seen: ${count} x ${kind}`);
}

for (const RESP of [2, 3]) {
  const client = await connect({ RESP });
  await commands(client, String(RESP));
  client.destroy();
}
const client = await connect({});
await replicaReads(client);
await allPrimaries(client);
await failover(client);
client.destroy();
console.log('passed');
process.exit(0);
