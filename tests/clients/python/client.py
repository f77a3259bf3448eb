"""redis-py in cluster mode: see ../README.md."""

import collections
import sys
import threading
import time

from redis.cache import CacheConfig, CacheFactory
from redis.cluster import LoadBalancingStrategy, RedisCluster
from redis.exceptions import RedisError, ResponseError

TRIES = 60
PAUSE = 0.1


def check(what, got, wanted):
    """Ends the program where something is not as it should be."""
    if got != wanted:
        sys.exit(f"{what}: got {got!r}, wanted {wanted!r}")


def until(what, look):
    """Looks until there is something true: what comes is not yet there at once."""
    for _ in range(TRIES):
        if look():
            return
        time.sleep(PAUSE)
    sys.exit(f"{what}: not within {TRIES} looks")


def refused(what, call, words):
    """The server must refuse it in these words."""
    try:
        got = call()
    except ResponseError as error:
        check(what, words in str(error), True)
        return
    sys.exit(f"{what}: got {got!r}, wanted the error {words}")


def commands(client, name):
    """Everything that needs no failure."""
    key = f"py:{name}:a"
    check("SET", client.set(key, "1"), True)
    check("GET", client.get(key), b"1")
    check("GET of nothing", client.get(f"py:{name}:none"), None)
    check("SET NX", client.set(key, "2", nx=True), None)
    check("SET XX GET", client.set(key, "3", xx=True, get=True), b"1")
    check("SETNX", client.setnx(f"py:{name}:nx", "1"), True)
    check("STRLEN", client.strlen(key), 1)
    check("TYPE", client.type(key), b"string")
    binary = b"py:\x00\xff\r\n$" + name.encode()
    check("SET of bytes", client.set(binary, bytes(range(256))), True)
    check("GET of bytes", client.get(binary), bytes(range(256)))
    check("SET of nothing", client.set(key, b""), True)
    check("GET of nothing", client.get(key), b"")
    large = b"x" * (1 << 20)
    check("SET of 1 MiB", client.set(key, large), True)
    check("GET of 1 MiB", client.get(key), large)

    counter = f"py:{name}:counter"
    client.delete(counter)
    check("INCR", client.incr(counter), 1)
    check("INCRBY", client.incrby(counter, 41), 42)
    check("DECR", client.decr(counter), 41)
    client.set(counter, "no number")
    refused("INCR of text", lambda: client.incr(counter), "not an integer")

    client.set(key, "soon gone", px=300)
    check("PTTL", 0 < client.pttl(key) <= 300, True)
    until("expiry", lambda: client.get(key) is None)
    client.set(key, "stays", ex=1000)
    check("TTL", 900 < client.ttl(key) <= 1000, True)

    keys = [f"py:{name}:pipe:{number}" for number in range(300)]
    with client.pipeline() as pipe:
        for number, one in enumerate(keys):
            pipe.set(one, number)
        check("pipeline of SET", pipe.execute(), [True] * len(keys))
        for one in keys:
            pipe.get(one)
        wanted = [str(number).encode() for number in range(len(keys))]
        check("pipeline of GET", pipe.execute(), wanted)

    tagged = [f"py:{{{name}}}:{number}" for number in range(5)]
    for one in tagged:
        client.set(one, one)
    check("MGET", client.mget(tagged + ["py:{%s}:none" % name]), [t.encode() for t in tagged] + [None])
    check("EXISTS", client.exists(*tagged), 5)
    check("DEL", client.delete(*tagged[:2]), 2)
    node = client.get_node_from_key(keys[0])
    refused(
        "keys of several slots",
        lambda: client.execute_command("MGET", keys[0], keys[1], target_nodes=node),
        "hash to the same slot" if name == "3" else "same slot",
    )


def replica_reads(client, host, port):
    """From replicas alone, which may lag behind."""
    keys = [f"py:replica:{number}" for number in range(100)]
    for one in keys:
        client.set(one, one)
    strategy = LoadBalancingStrategy.ROUND_ROBIN_REPLICAS
    reader = RedisCluster(host=host, port=port, load_balancing_strategy=strategy)
    for one in keys:
        until(f"a replica's {one}", lambda: reader.get(one) == one.encode())
    reader.close()


def all_primaries(client):
    """DBSIZE and SCAN go to every node that the client takes for a primary."""
    primaries = {node.name for node in client.get_primaries()}
    owners = {nodes[0].name for nodes in client.nodes_manager.slots_cache.values()}
    check("primaries", owners <= primaries, True)
    one = client.get_redis_connection(client.get_random_node())
    if not one.execute_command("COMMAND LIST", "FILTERBY", "PATTERN", "scan"):
        print("the server has no SCAN yet")
        return
    mine = {f"py:scan:{number}".encode() for number in range(500)}
    for one in mine:
        client.set(one, "1")
    check("SCAN", set(client.scan_iter(match="py:scan:*", count=50)), mine)
    check("DBSIZE", client.dbsize(target_nodes=RedisCluster.PRIMARIES) >= len(mine), True)


def kept_values(client, host, port):
    """What a client keeps is dropped once another one changed it."""
    keys = [f"py:kept:{number}" for number in range(100)]

    def all_kept():
        """Reads what is not kept: a node may drop keys that nobody changed, as when it hands a
        partition over or cannot show for a moment that it is current."""
        for one in keys:
            keeper.get(one)
        return cache.size == len(keys)

    for one in keys:
        client.set(one, "old")
    cache = CacheFactory(CacheConfig()).get_cache()
    with RedisCluster(host=host, port=port, protocol=3, cache=cache) as keeper:
        for one in keys:
            check(f"GET of {one}", keeper.get(one), b"old")
        until("all values to be kept", all_kept)
        for one in keys:
            client.set(one, "new")
        for one in keys:
            until(f"the new {one}", lambda: keeper.get(one) == b"new")
        until("all values to be kept again", all_kept)


def failover(client):
    """Writes go on while a node is killed."""
    killed = threading.Event()

    def listen():
        if sys.stdin.readline().strip() == "killed":
            killed.set()

    threading.Thread(target=listen, daemon=True).start()
    seen, most = collections.Counter(), 0
    written, after = 0, 0
    while after < 700:
        if written == 300:
            print("kill", flush=True)
        after += killed.is_set()
        for attempt in range(1, TRIES + 1):
            try:
                client.set(f"py:run:{written}", written)
                break
            except RedisError as error:
                seen[f"{type(error).__name__}: {str(error)[:60]}"] += 1
                time.sleep(PAUSE)
        else:
            sys.exit(f"write {written} failed {TRIES} times: {seen}")
        most = max(most, attempt)
        written += 1
    for number in range(written):
        until(f"read back {number}", lambda: client.get(f"py:run:{number}") == str(number).encode())
    print(f"{written} writes acknowledged and read back, one tried {most} times at most")
    for error, count in seen.items():
        print(f"seen: {count} x {error}")


def main():
    host, port = sys.argv[1], int(sys.argv[2])
    for protocol in (2, 3):
        with RedisCluster(host=host, port=port, protocol=protocol) as client:
            commands(client, str(protocol))
    with RedisCluster(host=host, port=port, socket_timeout=5) as client:
        replica_reads(client, host, port)
        all_primaries(client)
        kept_values(client, host, port)
        failover(client)
    print("passed")


main()
