#!/usr/bin/env python3
"""The same calls to Debian's redis-server and to Cairn, replies compared byte for byte.

    compare.py CAIRN_PORT REDIS_PORT [--write]

Starts redis-server on REDIS_PORT, as a cluster of one node, since that is what Cairn shows
itself as. `calls.py` has the calls. What is answered differently must stand in the table of
docs/redis-differences.md with both answers and the reason, and everything in that table must
be so; `--write` writes the table anew and keeps the reasons.
"""

import ctypes
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import calls

TABLE = Path(__file__).resolve().parents[3] / "docs/redis-differences.md"
# Integers of a `near` call may differ by so much: milliseconds that passed in between.
NEAR = 5000
SHOWN = 110
# What may be missing yet: its sections are left out, and said, until it is there.
PENDING = {"dbsize", "scan"}


class Connection:
    """Sends commands and reads replies as the bytes that they are."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.read = self.socket.makefile("rb")

    def call(self, words):
        self.socket.sendall(encode(words))
        return self.reply()

    def raw(self, data):
        """The reply to bytes that may be no command, if one comes."""
        self.socket.settimeout(2)
        self.socket.sendall(data)
        try:
            return self.reply()
        except TimeoutError:
            return b"(nothing)"

    def reply(self):
        line = self.read.readline()
        if not line:
            return b"(the connection was closed)"
        kind, rest = line[:1], line[1:-2]
        if kind in b"$!=" and rest != b"-1":
            return line + self.read.read(int(rest) + 2)
        if kind in b"*~>%" and rest != b"-1":
            count = int(rest) * (2 if kind == b"%" else 1)
            return line + b"".join(self.reply() for _ in range(count))
        return line


def encode(words):
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


def shape(reply):
    """A reply without its contents: types and numbers of elements."""
    reply = re.sub(rb"([$=])\d+\r\n.*?\r\n(?=[$*%~:+,#_\-=>!]|$)", rb"\1?", reply, flags=re.DOTALL)
    return re.sub(rb"([:+,])[^\r]*\r\n", rb"\1?", reply)


def near(one, other):
    """Whether both are integers that hardly differ."""
    pattern = re.compile(rb":(-?\d+)\r\n")
    first, second = pattern.fullmatch(one), pattern.fullmatch(other)
    if not (first and second):
        return one == other
    one, other = int(first[1]), int(second[1])
    # What is not there, or does not expire, is told by negative numbers: exactly.
    return one == other if min(one, other) < 0 else abs(one - other) <= NEAR


def info(reply):
    """Of COMMAND INFO what clients route by: name, arity, flags and where the keys are."""
    categories = reply.find(b"+@")
    return reply[: max(reply.rfind(b"*", 0, categories), reply.rfind(b"~", 0, categories))]


def same(how, redis, cairn):
    if how == "info":
        return info(redis) == info(cairn) != b""
    if how == "shape":
        return shape(redis) == shape(cairn)
    if how == "near":
        return near(redis, cairn)
    return redis == cairn


def show(reply):
    """One reply as a cell of the table."""
    text = reply.decode("latin-1").replace("\r\n", " ").strip()
    text = "".join(c if " " <= c <= "~" else f"\\x{ord(c):02x}" for c in text)
    text = text.replace("|", "\\|").replace("`", "'")
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def show_call(protocol, words):
    if isinstance(words, bytes):
        return f"RESP{protocol} raw {show(words)}"
    text = " ".join(show(word) if word else '""' for word in words)
    return f"RESP{protocol} {text}"


def known(connection, name):
    """Whether the server has a command."""
    return connection.call([b"COMMAND", b"INFO", name.encode()]) not in (b"*1\r\n$-1\r\n", b"*1\r\n*-1\r\n", b"*1\r\n_\r\n")


def run(ports):
    """Makes every call. Returns what differs, how many calls there were, and what is left out."""
    differences, count, left_out = {}, 0, set()
    probe = Connection(ports[1])
    missing = {name for name in PENDING if not known(probe, name)}
    for protocol in (2, 3):
        for section in calls.sections(protocol):
            absent = section.needs & missing
            if absent:
                left_out |= absent
                continue
            pair = [Connection(port) for port in ports]
            if protocol == 3:
                for connection in pair:
                    connection.call([b"HELLO", b"3"])
            for call in section.calls:
                if call.sleep:
                    time.sleep(call.sleep)
                ask = Connection.raw if isinstance(call.words, bytes) else Connection.call
                count += 1
                if call.how == "refused":
                    # Redis is not asked: it may do what it is told.
                    cairn = ask(pair[1], call.words)
                    if not cairn.startswith((b"-ERR unknown command", b"-ERR unknown subcommand")):
                        differences[show_call(protocol, call.words)] = ("is not asked", show(cairn))
                    continue
                redis, cairn = (ask(connection, call.words) for connection in pair)
                if not same(call.how, redis, cairn):
                    name = show_call(protocol, call.words)
                    differences[name] = (show(redis), show(cairn))
            for connection in pair:
                connection.socket.close()
    return differences, count, left_out


ROW = re.compile(r"^\| `(.*?)` \| `(.*?)` \| `(.*?)` \| (.*?) \|$", re.MULTILINE)


def table():
    """The rows that are documented: call -> (redis, cairn, why)."""
    return {call: (redis, cairn, why) for call, redis, cairn, why in ROW.findall(TABLE.read_text())}


def write(differences):
    """Puts the rows into the page, after its last line that is no row."""
    reasons = {call: row[2] for call, row in table().items()}
    lines = [line for line in TABLE.read_text().splitlines() if not ROW.match(line)]
    for call, (redis, cairn) in sorted(differences.items()):
        lines.append(f"| `{call}` | `{redis}` | `{cairn}` | {reasons.get(call, '?')} |")
    TABLE.write_text("\n".join(lines) + "\n")


def judge(differences):
    """What is not as the table says."""
    documented, problems = table(), []
    for call, replies in sorted(differences.items()):
        row = documented.get(call)
        if row is None:
            problems.append(f"{call}\n    redis: {replies[0]}\n    cairn: {replies[1]}\n    is not in {TABLE.name}")
        elif row[:2] != replies:
            problems.append(f"{call}\n    is now {replies}\n    and in {TABLE.name} {row[:2]}")
        elif row[2] in ("", "?"):
            problems.append(f"{call}: {TABLE.name} gives no reason")
    problems += [f"{call}: no longer differs; take it out of {TABLE.name}" for call in documented.keys() - differences.keys()]
    return problems


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def start_redis(port, directory):
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", "",
         "--cluster-enabled", "yes", "--cluster-port", str(port + 1), "--daemonize", "no"],
        stdout=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    for _ in range(200):
        try:
            connection = Connection(port)
            connection.call([b"CLUSTER", b"ADDSLOTSRANGE", b"0", b"16383"])
            if b"cluster_state:ok" in connection.call([b"CLUSTER", b"INFO"]):
                return process
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit("redis-server does not serve")


def main():
    cairn, redis = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="cairn-redis-") as directory:
        process = start_redis(redis, directory)
        try:
            differences, count, left_out = run((redis, cairn))
        finally:
            process.kill()
            process.wait()
    if "--write" in sys.argv:
        write(differences)
    if left_out:
        print(f"not there yet, left out: {', '.join(sorted(left_out))}")
    problems = judge(differences)
    print("\n".join(problems))
    print(f"{count} calls, {len(differences)} answered differently, {len(problems)} of them not as documented")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
