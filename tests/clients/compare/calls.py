"""The calls that `compare.py` makes to both servers."""

from dataclasses import dataclass, field


@dataclass
class Call:
    """One call: a list of words, or bytes that are sent as they are."""

    words: object
    # How replies are compared: exact, near (integers that hardly differ), shape (types and
    # numbers of elements alone, where the contents are the server's own), info (the part of
    # COMMAND INFO that clients route by), or refused (Cairn says that it has no such command).
    how: str = "exact"
    # Seconds to let pass before it.
    sleep: float = 0


@dataclass
class Section:
    """Calls on one connection. Its keys are its own."""

    name: str
    calls: list = field(default_factory=list)
    # Commands that may not be there yet.
    needs: set = field(default_factory=set)

    def add(self, *words, how="exact", sleep=0):
        self.calls.append(Call([w if isinstance(w, bytes) else str(w).encode() for w in words], how, sleep))
        return self

    def line(self, *lines, how="exact"):
        for line in lines:
            self.add(*line.split(), how=how)
        return self


FAR = 4102444800  # 2100-01-01, in seconds


def set_options(p):
    """SET with all its options, singly and in pairs, right and wrong, on a key that is there
    and one that is not."""
    section = Section("set options")
    expiries = [
        ["EX", "100"], ["PX", "100000"], ["EXAT", str(FAR)], ["PXAT", str(FAR * 1000)], ["KEEPTTL"],
        ["EX", "0"], ["EX", "-1"], ["EX", "x"], ["EX", "9223372036854775807"], ["PX", "0"], ["EX"],
        ["EXAT", "0"], ["PXAT", "-5"], ["PX", "9223372036854775807"], ["PXAT", "1.5"],
    ]
    others = [["NX"], ["XX"], ["GET"], ["NX", "GET"], ["XX", "GET"], ["NX", "XX"], ["nx"], ["bogus"]]
    options = [[]] + expiries + others
    options += [e + o for e in expiries[:5] for o in others]
    options += [["EX", "1", "PX", "1"], ["KEEPTTL", "EX", "1"], ["EX", "1", "EX", "1"], ["GET", "GET"],
                ["XX", "XX"], ["KEEPTTL", "KEEPTTL"], ["ex", "100", "xx"]]
    for number, option in enumerate(options):
        for there in (False, True):
            key = f"{{{p}so}}{number}{there}"
            if there:
                section.add("SET", key, "old", "EX", "5000")
            section.add("SET", key, "new", *option)
            section.add("GET", key)
            section.add("TTL", key, how="near")
    return section


def strings(p):
    s = Section("strings")
    k = f"{{{p}}}k"
    s.add("GET", k).add("SET", k, "v").add("GET", k).add("get", k).add("gEt", k)
    s.add("GET").add("GET", k, k).add("SET", k).add("SET")
    s.add("SET", k, "").add("GET", k).add("STRLEN", k)
    s.add("SET", k, b"\x00\xff\r\n\t").add("GET", k).add("STRLEN", k).add("STRLEN", f"{{{p}}}none")
    s.add("STRLEN").add("STRLEN", k, k)
    s.add("SET", b"\x00\xff\r\n" + p.encode(), "binary key").add("GET", b"\x00\xff\r\n" + p.encode())
    s.add("SET", k, b"x" * 70000).add("GET", k).add("STRLEN", k)
    s.add("SETNX", k, "no").add("SETNX", f"{{{p}}}nx", "yes").add("GET", f"{{{p}}}nx").add("SETNX", k)
    s.add("GETSET", k, "new").add("GET", k).add("GETSET", f"{{{p}}}gs", "1").add("GETSET", k)
    s.add("SETEX", k, "100", "v").add("TTL", k, how="near").add("SETEX", k, "0", "v").add("SETEX", k, "-1", "v")
    s.add("SETEX", k, "x", "v").add("SETEX", k, "1").add("SETEX", k, "9223372036854775807", "v")
    s.add("PSETEX", k, "100000", "v").add("PTTL", k, how="near").add("PSETEX", k, "0", "v").add("PSETEX", k, "x", "v")
    s.add("PSETEX", k, "9223372036854775807", "v")
    s.add("GETSET", k, "clears the expiry").add("TTL", k)
    s.add("SET", "", "empty key").add("GET", "").add("DEL", "")
    return s


def counters(p):
    s = Section("counters")
    c = f"{{{p}}}c"
    s.add("INCR", c).add("INCR", c).add("INCRBY", c, "40").add("DECR", c).add("DECRBY", c, "41").add("GET", c)
    s.add("INCRBY", c, "-5").add("DECRBY", c, "-5").add("GET", c).add("TYPE", c)
    for by in ["x", "1.5", "", " 1", "1 ", "+1", "01", "9223372036854775808", "-9223372036854775808",
               "9223372036854775807", "1e3", "0x1", "-0", "--1"]:
        s.add("SET", c, "1").add("INCRBY", c, by).add("DECRBY", c, by).add("GET", c)
    for value in ["x", "", "1.5", " 1", "1 ", "+1", "01", "-0", "0", "9223372036854775807", "-9223372036854775808",
                  "9223372036854775808", "-1", "1\n"]:
        s.add("SET", c, value).add("INCR", c).add("DECR", c).add("INCRBY", c, "2").add("DECRBY", c, "2").add("GET", c)
    s.add("SET", c, "9223372036854775807").add("INCR", c).add("INCRBY", c, "1").add("DECR", c).add("GET", c)
    s.add("SET", c, "-9223372036854775808").add("DECR", c).add("DECRBY", c, "1")
    s.add("INCR").add("INCR", c, c).add("INCRBY", c).add("DECRBY", c).add("DECR")
    s.add("SET", c, "5", "EX", "100").add("INCR", c).add("TTL", c, how="near")
    return s


def several_keys(p):
    s = Section("several keys")
    a, b, none = (f"{{{p}}}{name}" for name in "abn")
    s.add("SET", a, "1").add("SET", b, "2")
    s.add("MGET", a, b, none).add("MGET", a, a).add("MGET").add("MGET", a, "other").add("MGET", "other", a)
    s.add("EXISTS", a, b, none).add("EXISTS", a, a, a).add("EXISTS").add("EXISTS", a, "other")
    s.add("TOUCH", a, none).add("TOUCH").add("TYPE", a).add("TYPE", none).add("TYPE").add("TYPE", a, b)
    s.add("DEL", a, "other").add("UNLINK", a, "other").add("DEL").add("UNLINK")
    s.add("DEL", a, a, none).add("UNLINK", b).add("UNLINK", b).add("DEL", a).add("MGET", a, b)
    # Where a hash tag begins and ends.
    for one, other in [("{t}1", "{t}2"), ("{}1", "{}2"), ("{t", "{t"), ("a{t}b{u}", "c{t}d"), ("{{t}}", "{{t}}x"), ("t}", "t}")]:
        s.add("MGET", one, other)
    return s


def expiry(p):
    s = Section("expiry")
    k, none = f"{{{p}}}e", f"{{{p}}}none"
    for command in ["TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME"]:
        s.add(command, none).add("SET", k, "v").add(command, k).add("SET", k, "v", "EX", "1000").add(command, k, how="near")
        s.add(command).add(command, k, k)
    s.add("SET", k, "v", "EXAT", FAR).add("EXPIRETIME", k).add("PEXPIRETIME", k)
    s.add("SET", k, "v", "PXAT", FAR * 1000 + 1).add("EXPIRETIME", k).add("PEXPIRETIME", k)
    s.add("SET", k, "v", "KEEPTTL").add("PEXPIRETIME", k).add("SET", k, "v").add("PEXPIRETIME", k)
    s.add("SET", k, "gone soon", "PX", "40").add("GET", k, sleep=0.15).add("TTL", k).add("EXISTS", k).add("TYPE", k)
    s.add("SET", k, "gone soon", "PX", "40").add("SET", k, "new", "NX", sleep=0.15).add("GET", k)
    s.add("SET", k, "7", "PX", "40").add("INCR", k, sleep=0.15).add("TTL", k)
    s.add("SET", k, "gone soon", "PX", "40").add("SET", k, "x", "XX", sleep=0.15).add("GETSET", k, "y").add("GET", k)
    s.add("SET", k, "gone soon", "PX", "40").add("DEL", k, sleep=0.15).add("STRLEN", k)
    s.add("SET", k, "long gone", "PXAT", "1").add("GET", k).add("SET", k, "v", "EXAT", "1").add("EXISTS", k)
    return s


def getdel(p):
    s = Section("getdel", needs={"getdel"})
    k = f"{{{p}}}gd"
    s.add("SET", k, "v").add("GETDEL", k).add("GETDEL", k).add("EXISTS", k).add("GETDEL").add("GETDEL", k, k)
    return s


def getex(p):
    s = Section("getex", needs={"getex"})
    k = f"{{{p}}}gx"
    s.add("GETEX", k).add("SET", k, "v").add("GETEX", k).add("TTL", k)
    for option in [["EX", "100"], ["PX", "100000"], ["EXAT", FAR], ["PXAT", FAR * 1000], ["PERSIST"], ["EX", "0"],
                   ["EX", "-1"], ["EX", "x"], ["EX"], ["NX"], ["KEEPTTL"], ["PERSIST", "EX", "1"], ["EX", "1", "PX", "1"],
                   ["PX", "9223372036854775807"]]:
        s.add("GETEX", k, *option).add("TTL", k, how="near")
    s.add("GETEX", k, "EXAT", "1").add("EXISTS", k).add("GETEX")
    return s


def ranges(p):
    s = Section("ranges")
    k, none = f"{{{p}}}rg", f"{{{p}}}none"
    s.add("SET", k, "abcdef", "EX", "100")
    for first, last in [(0, -1), (1, 2), (-2, -1), (-1, -2), (2, 1), (0, 100), (-100, 1), (-100, -50), (6, 9), (5, -9),
                        (0, "9223372036854775807"), ("-9223372036854775808", 0), ("x", 1), (0, "1.5")]:
        s.add("GETRANGE", k, first, last).add("GETRANGE", none, first, last)
    s.add("GETRANGE", k, 1).add("GETRANGE")
    for offset, part in [(1, "XY"), (6, "z"), (10, "end"), (0, ""), (20, ""), (-1, "z"), ("x", "z"), (536870912, "z"),
                         ("9223372036854775807", "z")]:
        s.add("SETRANGE", k, offset, part).add("GET", k).add("SETRANGE", none, offset, "").add("EXISTS", none)
    s.add("TTL", k, how="near").add("SETRANGE", f"{{{p}}}new", 2, "x").add("GET", f"{{{p}}}new").add("SETRANGE", k, 1)
    return s


def append(p):
    s = Section("append", needs={"append"})
    k = f"{{{p}}}ap"
    s.add("APPEND", k, "ab").add("APPEND", k, "").add("APPEND", k, b"\x00c").add("GET", k).add("STRLEN", k)
    s.add("SET", k, "v", "EX", "100").add("APPEND", k, "w").add("TTL", k, how="near").add("GET", k)
    s.add("APPEND", k).add("APPEND").add("APPEND", f"{{{p}}}ap2", "").add("EXISTS", f"{{{p}}}ap2")
    return s


def mset(p):
    s = Section("mset", needs={"mset", "msetnx"})
    a, b, c = (f"{{{p}}}m{name}" for name in "abc")
    s.add("MSET", a, "1", b, "2").add("MGET", a, b).add("MSET", a, "1", a, "2").add("GET", a)
    s.add("MSET").add("MSET", a).add("MSET", a, "1", b).add("MSET", a, "1", "other", "2").add("GET", a)
    s.add("SET", a, "1", "EX", "100").add("MSET", a, "2").add("TTL", a)
    s.add("MSETNX", a, "3", c, "3").add("EXISTS", c).add("MSETNX", c, "3").add("GET", c)
    s.add("MSETNX").add("MSETNX", a).add("MSETNX", a, "1", b).add("MSETNX", a, "1", "other", "2")
    return s


def expire(p):
    s = Section("expire", needs={"expire", "pexpire", "expireat", "pexpireat", "persist"})
    k, none = f"{{{p}}}ex", f"{{{p}}}none"
    values = {"EXPIRE": "100", "PEXPIRE": "100000", "EXPIREAT": FAR, "PEXPIREAT": FAR * 1000}
    for command, value in values.items():
        s.add("SET", k, "v").add(command, none, value).add(command, k, value).add("TTL", k, how="near")
        for option in ["NX", "XX", "GT", "LT", "nx", "bogus"]:
            s.add("SET", k, "v").add(command, k, value, option).add("TTL", k, how="near")
            s.add("SET", k, "v", "EX", "50").add(command, k, value, option).add("TTL", k, how="near")
        s.add(command, k, value, "NX", "XX").add(command, k, value, "GT", "LT").add(command, k, value, "NX", "GT")
        s.add(command, k, "x").add(command, k, "1.5").add(command, k, "9223372036854775807").add(command, k).add(command)
        s.add(command, k, "-9223372036854775808").add("EXISTS", k)
        s.add("SET", k, "v").add(command, k, "-1").add("EXISTS", k).add("SET", k, "v").add(command, k, "0").add("EXISTS", k)
    s.add("SET", k, "v", "EX", "100").add("PERSIST", k).add("TTL", k).add("PERSIST", k).add("PERSIST", none).add("PERSIST")
    return s


def scan(p):
    s = Section("scan", needs={"scan", "dbsize"})
    s.add("SCAN").add("SCAN", "x").add("SCAN", "0", "COUNT", "0").add("SCAN", "0", "COUNT", "x").add("SCAN", "0", "MATCH")
    s.add("SCAN", "0", "bogus", "1").add("SCAN", "0", "COUNT", "1000000", "MATCH", f"{p}no such key*").add("DBSIZE", "x")
    s.add("SCAN", "0", "COUNT", "1000000", "TYPE", "list").add("DBSIZE", how="shape")
    return s


def connections(p, protocol):
    s = Section("connections")
    s.line("PING", "PING hello", "ECHO hello", "ECHO", "ECHO a b", "PING a b", "ping")
    s.add("PING", b"\x00\xff").add("ECHO", "")
    s.line("SELECT 0", "SELECT 1", "SELECT x", "SELECT -1", "SELECT", "SELECT 99")
    s.line("AUTH", "AUTH x", "AUTH default x", "AUTH a b c", "AUTH nobody x")
    s.line("READONLY", "READWRITE", "READONLY x", "READWRITE x")
    s.line("CLIENT", "CLIENT bogus", "CLIENT GETNAME", "CLIENT SETNAME me", "CLIENT GETNAME", "CLIENT SETNAME", "CLIENT SETNAME a b")
    s.add("CLIENT", "SETNAME", "with space").add("CLIENT", "SETNAME", "with\nline").add("CLIENT", "SETNAME", "")
    s.line("CLIENT GETNAME", "CLIENT NO-EVICT on", "CLIENT NO-EVICT off", "CLIENT NO-EVICT x", "CLIENT GETREDIR")
    s.line("CLIENT ID", "CLIENT INFO", how="shape").line("CLIENT ID x", "CLIENT KILL", "CLIENT KILL ID x", "CLIENT KILL ID 999999", "CLIENT KILL 1.2.3.4:5")
    s.line("CLIENT KILL TYPE bogus", "CLIENT LIST TYPE bogus", "CLIENT LIST ID 999999", "CLIENT REPLY x", "CLIENT REPLY on")
    s.line("CLIENT SETINFO lib-name x", "CLIENT NO-TOUCH on", how="exact")
    s.line("CLIENT PAUSE 1", "CLIENT UNPAUSE", how="refused")
    s.line("CLIENT CACHING yes", "CLIENT TRACKINGINFO", "CLIENT TRACKING", "CLIENT TRACKING x", "CLIENT TRACKING on x")
    s.line("CLIENT TRACKING on PREFIX", "CLIENT TRACKING on PREFIX a", "CLIENT TRACKING on REDIRECT", "CLIENT TRACKING on REDIRECT x")
    s.line("CLIENT TRACKING on REDIRECT 999999", "CLIENT TRACKING on BCAST OPTIN", "CLIENT TRACKING on OPTIN OPTOUT")
    s.line("CLIENT TRACKING on BCAST PREFIX a PREFIX ab", "CLIENT TRACKING on OPTIN NOLOOP", "CLIENT TRACKINGINFO")
    s.line("CLIENT CACHING x", "CLIENT CACHING no", "CLIENT CACHING yes", "CLIENT TRACKINGINFO", "CLIENT GETREDIR")
    s.line("CLIENT TRACKING on OPTOUT", "CLIENT TRACKING on BCAST", "CLIENT TRACKING off", "CLIENT TRACKING on BCAST PREFIX a PREFIX b")
    s.line("CLIENT TRACKINGINFO", "CLIENT TRACKING on BCAST PREFIX ab", "CLIENT TRACKING on", "CLIENT TRACKING off x", "CLIENT TRACKING off")
    s.line("CLIENT TRACKINGINFO", "CLIENT GETREDIR")
    s.line("HELLO x", "HELLO 1", "HELLO 4", "HELLO 2 bogus", "HELLO 3 AUTH", "HELLO 2 SETNAME")
    s.line(f"HELLO {protocol}", "HELLO", how="shape").line(f"HELLO {protocol} SETNAME you", how="shape").line("CLIENT GETNAME")
    s.line("RESET", "PING", "CLIENT GETNAME", "RESET x")
    return s


def cluster(p):
    s = Section("cluster")
    s.line("CLUSTER", "CLUSTER bogus", "CLUSTER KEYSLOT foo", "CLUSTER KEYSLOT {foo}bar", "CLUSTER KEYSLOT", "CLUSTER KEYSLOT a b")
    s.add("CLUSTER", "KEYSLOT", "").add("CLUSTER", "KEYSLOT", b"\x00\xff").add("CLUSTER", "KEYSLOT", "{}x").add("CLUSTER", "KEYSLOT", "{a}{b}")
    s.line("CLUSTER MYID", "CLUSTER LINKS", how="shape").line("CLUSTER MYID x", "CLUSTER NODES x", "CLUSTER INFO x", "CLUSTER SLOTS x", "CLUSTER SHARDS x")
    s.line("CLUSTER SLOTS", "CLUSTER SHARDS", how="shape")
    s.line("CLUSTER REPLICAS", "CLUSTER REPLICAS 0123", "CLUSTER SLAVES 0123")
    s.line("CLUSTER MEET 127.0.0.1 1", "CLUSTER FORGET 0123", "CLUSTER FAILOVER", "CLUSTER RESET", "CLUSTER COUNTKEYSINSLOT 1", "CLUSTER GETKEYSINSLOT 0 1", "ASKING", how="refused")
    s.line("WAIT 0 10", "WAIT x 1", "WAIT 0 x", "WAIT", "WAIT 0 -1", "WAIT 0")
    return s


def server(p):
    s = Section("server")
    s.line("TIME", "ROLE", how="shape").line("TIME x", "ROLE x", "CONFIG", "CONFIG bogus", "CONFIG GET", "CONFIG GET no-such-parameter")
    s.line("CONFIG GET maxmemory", "CONFIG GET databases", "CONFIG GET appendonly", "CONFIG GET save", "CONFIG GET cluster-enabled")
    s.line("CONFIG GET maxmemory-policy", "CONFIG GET MAXMEMORY", "CONFIG GET timeout", "CONFIG SET timeout 0", "CONFIG SET bogus 1", "CONFIG SET a", "CONFIG RESETSTAT")
    s.line("CONFIG REWRITE", how="refused")
    s.line("COMMAND bogus", "COMMAND COUNT x", "COMMAND INFO bogus", "COMMAND GETKEYS", "COMMAND GETKEYS GET a", "COMMAND GETKEYS MGET a b", "COMMAND GETKEYS SET a b EX 1")
    s.line("COMMAND GETKEYS PING", "COMMAND GETKEYS bogus a", "COMMAND GETKEYS GET", "COMMAND DOCS bogus", "COMMAND LIST FILTERBY bogus x", "COMMAND LIST FILTERBY PATTERN getse*")
    s.line("COMMAND COUNT", how="shape")
    for name in ["get", "set", "incr", "del", "mget", "exists", "incrby", "decr", "decrby", "setnx", "setex", "psetex", "getset",
                 "strlen", "unlink", "touch", "getdel", "getex", "append", "setrange", "getrange", "mset", "msetnx", "expire",
                 "pexpire", "expireat", "pexpireat", "persist", "type", "ttl", "pttl", "expiretime", "pexpiretime", "ping", "echo", "select", "wait"]:
        s.line(f"COMMAND INFO {name}", how="info")
    s.line("INFO server", "INFO nosuchsection", how="shape")
    return s


def refused(p):
    s = Section("refused")
    s.line("bogus", "bogus a b c", "GETT k")
    s.line("LPUSH l 1", "HSET h f v", "EVAL x 0", "MULTI", "PUBLISH c m", "FLUSHALL", "RENAME a a", "SORT l", "XADD s * f v", "INCRBYFLOAT k 1", "SETBIT k 0 1", "RANDOMKEY", "DEBUG SLEEP 0", "SAVE", "OBJECT ENCODING k", "COPY a a", "DUMP k", "LCS {a}1 {a}2", how="refused")
    s.add(b"x" * 200).add(b"\x00\xff", "a\r\nb").add("bogus", b"\x00\n", b"y" * 300)
    return s


def protocol_errors(p):
    sections = []
    for data in [b"PING\r\n", b"\r\nPING\r\n", b"PING hello\r\n", b'ECHO "quoted words"\r\n', b'ECHO "unbalanced\r\n', b"*1\r\n$4\r\nPING\r\n", b"*0\r\nPING\r\n", b"*-1\r\nPING\r\n",
                 b"*x\r\n", b"*1\r\n:1\r\n", b"*1\r\n$-1\r\n", b"*1\r\n$x\r\n", b"*1\r\n$999999999999\r\n", b"*99999999\r\n", b"*1048577\r\n",
                 b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n"]:
        sections.append(Section("protocol errors", [Call(data)]))
    return sections


def sections(protocol):
    p = f"cmp{protocol}"
    groups = [set_options, strings, counters, several_keys, expiry, getdel, getex, append, ranges, mset, expire, scan, cluster, server, refused]
    found = [group(p) for group in groups]
    found.append(connections(p, protocol))
    if protocol == 2:
        found += protocol_errors(p)
    return found
