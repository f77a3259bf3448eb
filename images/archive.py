"""Writes container images from files alone: no base, no daemon, no registry.

An archive is what `docker save` writes, which `docker load`, `kind load image-archive`,
`podman load` and containerd's import all take. The same files give the same bytes: names are
sorted, and owners and times are not those of the machine.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

# The user that the images run as, and the group.
USER = 65532

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass
class Entry:
    """A file, or a directory where there is no content."""

    content: bytes | None
    mode: int
    owner: int = 0


@dataclass
class Layer:
    """Files by their absolute path in the image."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def directory(self, path: str, mode: int = 0o755, owner: int = 0) -> None:
        self.entries[path] = Entry(None, mode, owner)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        for parent in Path(path).parents:
            if str(parent) != "/":
                self.entries.setdefault(str(parent), Entry(None, 0o755))
        self.entries[path] = Entry(content, mode)

    def program(self, path: str, content: bytes) -> None:
        self.file(path, content, 0o755)

    def tar(self) -> bytes:
        """The layer as it lies in an archive."""
        return tar({path.lstrip("/"): entry for path, entry in self.entries.items()})


def tar(entries: dict[str, Entry]) -> bytes:
    """A tar file of these, in the order of their names."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, entry in sorted(entries.items()):
            header = tarfile.TarInfo(name)
            header.mode = entry.mode
            header.uid = header.gid = entry.owner
            if entry.content is None:
                header.type = tarfile.DIRTYPE
                archive.addfile(header)
            else:
                header.size = len(entry.content)
                archive.addfile(header, io.BytesIO(entry.content))
    return out.getvalue()


@dataclass
class Image:
    """Layers, the lowest first, and how a container of them starts."""

    name: str
    layers: list[Layer]
    entrypoint: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    user: int = USER

    def write(self, path: Path, machine: str) -> str:
        """Writes the archive for this machine (`uname -m`) and returns the image's id."""
        layers = [layer.tar() for layer in self.layers]
        diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        config = encode(
            {
                "architecture": ARCHITECTURES[machine],
                "os": "linux",
                # The beginning of time: what was built when is no input.
                "created": "1970-01-01T00:00:00Z",
                "config": {
                    "User": f"{self.user}:{self.user}",
                    "Env": [f"{name}={value}" for name, value in sorted(self.environment.items())],
                    "Entrypoint": self.entrypoint,
                    "WorkingDir": "/",
                    "ExposedPorts": {f"{port}/tcp": {} for port in self.ports},
                    "Labels": self.labels,
                },
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
                "history": [{"created_by": "images/build"} for _ in layers],
            }
        )
        digest = hashlib.sha256(config).hexdigest()
        names = [f"{diff_id.removeprefix('sha256:')}.tar" for diff_id in diff_ids]
        manifest = [{"Config": f"{digest}.json", "RepoTags": [self.name], "Layers": names}]
        files = {
            "manifest.json": encode(manifest),
            f"{digest}.json": config,
            **dict(zip(names, layers)),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(tar({name: Entry(content, 0o644) for name, content in files.items()}))
        unfinished.rename(path)
        return f"sha256:{digest}"


def encode(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def libraries(program: Path) -> list[Path]:
    """The shared libraries that a program is linked with and its loader, where it looks for
    them; none for a static program."""
    plain = dict(os.environ, LC_ALL="C")
    done = subprocess.run(["ldd", str(program)], text=True, capture_output=True, env=plain)
    if done.returncode != 0:
        if "not a dynamic executable" in done.stderr + done.stdout:
            return []
        raise RuntimeError(f"ldd {program}: {done.stderr.strip()}")
    return parse_ldd(done.stdout)


def parse_ldd(listing: str) -> list[Path]:
    """The paths in what `ldd` printed."""
    if missing := re.findall(r"^\s*(\S+) => not found", listing, re.MULTILINE):
        raise RuntimeError(f"libraries that this machine lacks: {', '.join(missing)}")
    if "statically linked" in listing:
        return []
    # `libm.so.6 => /lib/libm.so.6 (0x7f)`, or `/lib64/ld-linux-x86-64.so.2 (0x7f)`; the
    # kernel's own has no path.
    return [Path(path) for path in re.findall(r"(?:^|=>)\s*(/\S+) \(0x", listing, re.MULTILINE)]


def stripped(program: Path) -> bytes:
    """A program without what only a debugger reads."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / program.name
        command = ["strip", "--strip-all", "-o", str(copy), str(program)]
        done = subprocess.run(command, text=True, capture_output=True)
        if done.returncode != 0:
            raise RuntimeError(f"strip {program}: {done.stderr.strip()}")
        return copy.read_bytes()
