"""Tests of images/."""

import json
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "images"))

import archive  # noqa: E402

# A small program that is linked as ours are. What it does is no matter.
PROGRAM = "/bin/ls"


def build(out: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(ROOT / "images/build"), "--out", out, *words],
        env={"PATH": "/usr/bin:/bin:/usr/sbin", "CAIRN_IMAGE_REVISION": "abc", **environment},
        text=True,
        capture_output=True,
    )


def node(out: str) -> Path:
    done = build(out, "node", CAIRN_BIN=PROGRAM)
    assert done.returncode == 0, done.stderr
    return Path(out) / "cairn-node.tar"


def files(path: Path) -> dict[str, tarfile.TarInfo]:
    """What is in an image, by its path."""
    with tarfile.open(path) as image:
        (manifest,) = json.load(image.extractfile("manifest.json"))
        found = {}
        for name in manifest["Layers"]:
            with tarfile.open(fileobj=image.extractfile(name)) as layer:
                found |= {f"/{member.name}": member for member in layer}
        return found


def config(path: Path) -> dict:
    with tarfile.open(path) as image:
        (manifest,) = json.load(image.extractfile("manifest.json"))
        return json.load(image.extractfile(manifest["Config"]))


class Node(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = folder.name

    def test_the_same_files_make_the_same_bytes(self):
        first = node(self.out).read_bytes()
        self.assertEqual(first, node(self.out).read_bytes())

    def test_it_holds_its_program_and_libraries_and_no_other_program(self):
        found = files(node(self.out))
        self.assertIn("/usr/bin/ls", found)
        for library in archive.libraries(Path(PROGRAM)):
            self.assertTrue(found[str(library)].isreg(), library)
        programs = [path for path in found if "/bin/" in path]
        self.assertEqual(programs, ["/usr/bin/ls"])

    def test_it_runs_as_a_user_that_has_a_name_and_a_data_directory(self):
        path = node(self.out)
        self.assertEqual(config(path)["config"]["User"], "65532:65532")
        found = files(path)
        self.assertEqual((found["/data"].uid, found["/data"].mode), (65532, 0o750))
        self.assertEqual(found["/tmp"].mode, 0o1777)
        owners = {member.uid for name, member in found.items() if name != "/data"}
        self.assertEqual(owners, {0})
        writable = [name for name, member in found.items() if member.mode & 0o022]
        self.assertEqual(writable, ["/tmp"])

    def test_labels_tell_what_it_is(self):
        labels = config(node(self.out))["config"]["Labels"]
        self.assertEqual(labels["org.opencontainers.image.revision"], "abc")
        self.assertEqual(labels["org.opencontainers.image.title"], "cairn/node")
        self.assertIn("org.opencontainers.image.version", labels)

    def test_layers_are_named_by_what_they_hold(self):
        with tarfile.open(node(self.out)) as image:
            (manifest,) = json.load(image.extractfile("manifest.json"))
            layers = [image.extractfile(name).read() for name in manifest["Layers"]]
        digests = [f"sha256:{archive.hashlib.sha256(layer).hexdigest()}" for layer in layers]
        self.assertEqual(config(Path(self.out) / "cairn-node.tar")["rootfs"]["diff_ids"], digests)

    def test_what_is_missing_is_told(self):
        done = build(self.out, "node", CAIRN_BIN="/nowhere/cairn")
        self.assertEqual(done.returncode, 1)
        self.assertIn("/nowhere/cairn is missing", done.stderr)
        self.assertEqual(list(Path(self.out).iterdir()), [])

    def test_the_operator_may_not_be_there_yet(self):
        environment = {"CAIRN_BIN": PROGRAM, "CAIRN_OPERATOR_BIN": "/nowhere/cairn-operator"}
        done = build(self.out, "operator", **environment)
        self.assertEqual(done.returncode, 1)
        self.assertIn("/nowhere/cairn-operator is missing", done.stderr)

    def test_an_operator_is_put_in_an_image_of_its_own(self):
        done = build(self.out, "operator", CAIRN_OPERATOR_BIN=PROGRAM)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("/usr/bin/ls", files(Path(self.out) / "cairn-operator.tar"))


class Ldd(unittest.TestCase):
    def test_libraries_are_found_where_the_loader_finds_them(self):
        listing = (
            "\tlinux-vdso.so.1 (0x00007f1f18c5c000)\n"
            "\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f1f16f20000)\n"
            "\t/lib64/ld-linux-x86-64.so.2 (0x00007f1f18c5e000)\n"
        )
        paths = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]
        self.assertEqual([str(path) for path in archive.parse_ldd(listing)], paths)

    def test_a_library_that_is_missing_is_an_error(self):
        with self.assertRaisesRegex(RuntimeError, "libgone.so.1"):
            archive.parse_ldd("\tlibgone.so.1 => not found\n")


if __name__ == "__main__":
    unittest.main()
