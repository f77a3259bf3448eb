"""Tests of the scripts in this folder."""

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE))
import metrics_table  # noqa: E402


def load(name: str):
    """A script as a module, though its name has no suffix."""
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(HERE / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


dependencies = load("check-dependencies")
run_tests = load("run-tests")
tree = load("check-tree")
chart_readme = load("chart-readme")
operator_mutations = load("operator-mutations")


class Licences(unittest.TestCase):
    def test_expressions_are_evaluated(self):
        for expression, expected in {
            "MIT": True,
            "MIT/Apache-2.0": True,
            "GPL-3.0-only": False,
            "Apache-2.0 OR GPL-2.0-only": True,
            "MIT AND GPL-2.0-only": False,
            "(MIT OR GPL-2.0-only) AND Unicode-3.0": True,
            "MIT AND (LGPL-3.0 OR MPL-2.0)": False,
            "Apache-2.0 WITH LLVM-exception": True,
            "GPL-2.0-only WITH Classpath-exception-2.0": False,
        }.items():
            self.assertIs(dependencies.permissive(expression), expected, expression)

    def test_what_cannot_be_read_is_an_error(self):
        for expression in ("MIT AND", "(MIT", "OR MIT", "MIT Apache-2.0", ""):
            with self.assertRaises(dependencies.LicenceError, msg=expression):
                dependencies.permissive(expression)


class Counting(unittest.TestCase):
    def run_step(self, script: str, minutes: float = 1):
        step = run_tests.Step("probe", "simulator", [sys.executable, "-c", script], minutes)
        # What the probe prints looks like results: whoever runs these tests must not count it.
        with contextlib.redirect_stdout(io.StringIO()):
            return run_tests.run(step)

    def test_cargo_lines_are_added_up(self):
        line = "test result: ok. {} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"
        result = self.run_step(f"print({line.format(3)!r}); print({line.format(4)!r})")
        self.assertEqual((result.passed, result.failed), (7, 0))

    def test_a_step_without_counts_counts_itself(self):
        self.assertEqual(self.run_step("pass").passed, 1)
        self.assertEqual(self.run_step("raise SystemExit(3)").failed, 1)

    def test_a_failure_after_passing_tests_is_not_lost(self):
        script = "print('test result: ok. 3 passed; 0 failed; 0 ignored'); raise SystemExit(1)"
        result = self.run_step(script)
        self.assertEqual((result.passed, result.failed), (3, 1))

    def test_a_step_out_of_time_fails(self):
        result = self.run_step("import threading; threading.Event().wait()", minutes=0.01)
        self.assertEqual(result.failed, 1)
        self.assertIn("stopped after", result.note)

    def test_python_failures_are_counted(self):
        result = self.run_step(
            "print('Ran 5 tests in 0.1s'); print('FAILED (failures=1, errors=1)'); raise SystemExit(1)"
        )
        self.assertEqual((result.passed, result.failed), (3, 2))

    def test_what_is_skipped_is_told_again(self):
        for printed in ("skipped: no mount", "test disks::full ... skipped: no mount"):
            result = self.run_step(f"print({printed!r})")
            self.assertEqual(result.skipped, ["no mount"], printed)
            self.assertIn("skipped: no mount", run_tests.summary([result]).splitlines())
        self.assertEqual(self.run_step("print('3 keys were skipped: why')").skipped, [])

    def test_what_failed_is_said_again_before_the_table(self):
        lines = [
            "test one ... Error: 3 requests failed",
            "",
            "Caused by:",
            "    nobody answered",
            "FAILED",
            "test two ... ok",
            "thread 'three' (7) panicked at src/lib.rs:3:5:",
            "4 is not 5",
            "stack backtrace:",
            "   0: somewhere",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        ]
        script = f"print({chr(10).join(lines)!r}); raise SystemExit({{}})"
        told = run_tests.summary([self.run_step(script.format(101))]).splitlines()
        table = next(at for at, line in enumerate(told) if line.startswith("step "))
        said = "\n".join(told[:table])
        for word in ["probe said:", "3 requests failed", "nobody answered", "src/lib.rs:3:5", "4 is not 5"]:
            self.assertIn(word, said)
        self.assertNotIn("somewhere", said)
        self.assertNotIn("two", said)
        self.assertEqual(run_tests.Result("a", 1, 0, 0, 1.0, "").failures, [])
        passed = self.run_step("print('Error: meant to be')")
        self.assertNotIn("meant to be", run_tests.summary([passed]))

    def test_counts_are_found_among_what_tests_print(self):
        result = self.run_step(
            "print('test kills::a ... kills: seed 7'); print('ok'); print();"
            "print('test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured')"
        )
        self.assertEqual((result.passed, result.failed), (1, 0))

    def test_the_last_line_sums_up(self):
        results = [run_tests.Result("a", 2, 0, 0, 1.0, ""), run_tests.Result("b", 3, 1, 0, 1.0, "")]
        self.assertEqual(run_tests.summary(results).splitlines()[-1], "5 passed, 1 failed")


class Warnings(unittest.TestCase):
    def check(self, script: str) -> int:
        command = [HERE / "check-warnings", sys.executable, "-c", script]
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode

    def test_a_warning_fails_and_what_looks_like_one_does_not(self):
        says = "import sys; print({!r}, file=sys.stderr); raise SystemExit({})"
        self.assertEqual(self.check(says.format("warning: unused variable: `x`", 0)), 1)
        self.assertEqual(self.check(says.format("warning[E0001]: a code", 0)), 1)
        self.assertEqual(self.check(says.format("   | warning: in a quoted line", 0)), 0)
        self.assertEqual(self.check(says.format("error: it does not compile", 101)), 101)


class Plugin(unittest.TestCase):
    """`kubectl cairn` over a kubectl that answers from a table and notes what it is asked."""

    FAKE = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>"$ASKED"
case "$*" in
*"get kvclusters"*) echo -n "$CLUSTERS" ;;
*"create --dry-run"*) echo "$MADE" ;;
*"kvcluster "*--ignore-not-found*) echo -n "$CLUSTERS" ;;
*persistentvolumeclaims*) echo -n "$CLAIMS" ;;
*maintenance.paused*) echo -n "$PAUSED" ;;
*template.spec*) echo -n '{"a":1}' ;;
*status.phase*) echo -n "$PHASE" ;;
*"patch --local"*|*"create -f -"*) echo "$(cat)" >>"$ASKED"; echo '{"b":2}' ;;
*"get pods,statefulsets"*) echo -n "$ENDING" ;;
*"get pods"*) printf '%s\\n' $READY; sleep 0.1; printf 'late\\n' ;;
*maintenance.drain*) echo -n "$DRAINED" ;;
*state*) echo -n "Empty 0" ;;
*"get pod orders-data-9"*) echo "not found" >&2; exit 1 ;;
esac
"""

    CLAIMS = """data-orders-coordinator-0 Bound [1Gi] /
data-orders-coordinator-1 Bound [1Gi] /
data-orders-data-0 Bound [9Gi] /
data-orders-data-2 Bound [9Gi] /
data-orders-data-3 Bound [9Gi] /true
data-orders-data-4 Pending [] /
data-orders-data-5 Bound [9Gi] 2026-01-02T03:04:05Z/
"""

    def call(self, *words: str, clusters="orders", ready="orders-coordinator-1", drained="", **more):
        with tempfile.TemporaryDirectory() as folder:
            fake = Path(folder, "kubectl")
            fake.write_text(self.FAKE)
            fake.chmod(0o755)
            asked = Path(folder, "asked")
            asked.touch()
            path = f"{folder}:{os.environ['PATH']}"
            environment = dict(
                os.environ, PATH=path, ASKED=str(asked), CLUSTERS=clusters, READY=ready, DRAINED=drained
            )
            environment |= {"MADE": "KvCluster shop orders 3/7/", "CLAIMS": self.CLAIMS, "ENDING": ""}
            environment |= {"PAUSED": "true", "PHASE": "Succeeded"} | more
            done = subprocess.run(
                [HERE.parent / "plugin" / "kubectl-cairn", *words],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
            )
            return done, asked.read_text().splitlines()

    def test_commands_run_in_a_coordinator_that_is_ready(self):
        done, asked = self.call("-n", "shop", "nodes")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(asked[-1], "-n shop exec orders-coordinator-1 -- cairn nodes")
        done, asked = self.call("run", "--", "get", "a key", "--level", "local")
        self.assertEqual(asked[-1], "exec orders-coordinator-1 -- cairn get a key --level local")
        done, asked = self.call("nodes", ready="orders-coordinator-2 orders-coordinator-0")
        self.assertEqual(asked[-1], "exec orders-coordinator-2 -- cairn nodes", done.stderr)
        done, _ = self.call("nodes", ready="")
        self.assertEqual(done.returncode, 3)
        self.assertIn("no coordinator of orders is ready", done.stderr)

    def test_the_cluster_is_the_only_one_or_the_named_one(self):
        self.assertEqual(self.call("nodes", clusters="orders carts")[0].returncode, 2)
        self.assertEqual(self.call("nodes", clusters="")[0].returncode, 1)
        done, asked = self.call("--cluster=carts", "hold")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("patch kvcluster carts", asked[-1])
        self.assertEqual(self.call("-c", "a b", "hold")[0].returncode, 2)

    def test_drains_are_added_to_those_there_are_and_taken_back_one_by_one(self):
        done, asked = self.call("drain", "--wait", "orders-data-1", drained="orders-data-0")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn('{"maintenance":{"drain":["orders-data-0","orders-data-1"]}}', asked[-2])
        self.assertIn("orders-data-1 is empty", done.stdout)
        done, asked = self.call("undrain", "orders-data-0", drained="orders-data-0 orders-data-1")
        self.assertIn('{"drain":["orders-data-1"]}', asked[-1])
        done, asked = self.call("undrain", "orders-data-1", drained="orders-data-1")
        self.assertIn('{"drain":[]}', asked[-1])
        for words in (["drain"], ["drain", "carts-data-0"], ["drain", "x;y"], ["undrain", "orders-data-4"]):
            done, asked = self.call(*words, drained="orders-data-1")
            self.assertEqual(done.returncode, 2, words)
            self.assertFalse(any("patch" in line for line in asked), words)
        self.assertNotEqual(self.call("drain", "orders-data-9")[0].returncode, 0)

    def test_a_data_node_hands_over_what_it_leads(self):
        done, asked = self.call("handover", "orders-data-1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(asked[-1].endswith("-- cairn nodes handover orders-data-1 --wait"), asked)
        for words in (["handover"], ["handover", "orders-coordinator-0"], ["handover", "orders-data-1", "orders-data-2"]):
            self.assertEqual(self.call(*words)[0].returncode, 2, words)

    def test_wrong_usage_says_so_and_changes_nothing(self):
        for words in ([], ["dance"], ["--bad"], ["scale"], ["scale", "0"], ["scale", "five"], ["nodes", "x"], ["-n"]):
            done, asked = self.call(*words)
            self.assertEqual(done.returncode, 2, words)
            self.assertFalse(any("patch" in line or "scale" in line for line in asked), words)
        self.assertEqual(self.call("--help")[0].returncode, 0)

    def test_volumes_are_shown_and_adopted_once_that_is_accepted(self):
        done, asked = self.call("adopt", __file__, clusters="")
        self.assertEqual(done.returncode, 5, done.stderr)
        self.assertIn("--adopt-volumes", done.stderr)
        absent = "coordinator-2 data-1 data-3 data-4 data-5 data-6".split()
        self.assertIn("Missing: " + " ".join(f"data-orders-{name}" for name in absent), done.stdout)
        for number, is_kept in enumerate((True, None, True, False, False, False)):
            lines = [line for line in done.stdout.splitlines() if f"  data-orders-data-{number} " in line]
            self.assertEqual([line.endswith("its data") for line in lines], [is_kept] * (is_kept is not None))
        self.assertFalse(any("apply" in line for line in asked), asked)

        done, asked = self.call("adopt", "--adopt-volumes", __file__, clusters="", ENDING="pod/orders-data-0")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("--namespace shop wait --for=delete --timeout=180s pod/orders-data-0", asked)
        meant = f"--namespace shop annotate --local --overwrite -f {__file__} cairn.dev/adopt-volumes=true -o yaml"
        self.assertIn(meant, asked)
        self.assertIn("--namespace shop apply -f -", asked)
        self.assertIn("orders is served, as cluster", done.stdout)

    def test_nothing_is_adopted_where_there_is_nothing_or_something_else(self):
        adopt = ("adopt", "--adopt-volumes", __file__)
        no_coordinator = self.CLAIMS.replace("coordinator", "other")
        for code, answers in (
            (5, {"clusters": "orders"}),
            (5, {"clusters": "", "CLAIMS": ""}),
            (5, {"clusters": "", "CLAIMS": no_coordinator}),
            (5, {"clusters": "", "MADE": "KvCluster shop orders 5/7/"}),
            (2, {"clusters": "", "MADE": "Pod shop orders //"}),
            (2, {"clusters": "", "MADE": "KvCluster shop a;b //"}),
            (2, {"clusters": "", "MADE": "KvCluster shop orders 3/7/true"}),
            (2, {"clusters": "", "MADE": "KvCluster shop orders 3/7/\nKvCluster shop carts 3/7/"}),
        ):
            done, asked = self.call(*adopt, **answers)
            self.assertEqual(done.returncode, code, (answers, done.stderr))
            self.assertFalse(any("apply" in line for line in asked), answers)
        self.assertEqual(self.call("adopt", "/nowhere", clusters="")[0].returncode, 2)
        self.assertEqual(self.call("adopt")[0].returncode, 2)

    def test_one_coordinators_volume_goes_on_once_what_may_be_lost_is_accepted(self):
        recover = ("recover-coordinators", "orders-coordinator-1")
        done, asked = self.call(*recover, PAUSED="")
        self.assertEqual(done.returncode, 5)
        self.assertIn("kubectl cairn pause", done.stderr)
        self.assertFalse(any("scale" in line for line in asked), asked)

        done, asked = self.call(*recover, PHASE="Failed")
        self.assertEqual(done.returncode, 5)
        self.assertIn("--accept-loss", done.stderr)
        self.assertIn("scale statefulset orders-coordinator --replicas=0", asked)
        self.assertTrue(any('"value":["recover-coordinators"]' in line for line in asked), asked)
        self.assertFalse(any("delete persistentvolumeclaim" in line for line in asked), asked)

        done, asked = self.call(*recover, "--accept-loss", PHASE="Failed")
        self.assertEqual(done.returncode, 5)
        self.assertFalse(any("delete persistentvolumeclaim" in line for line in asked), asked)

        done, asked = self.call(*recover, "--accept-loss")
        self.assertEqual(done.returncode, 0, done.stderr)
        pod = '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"orders-recovery"},"spec":{"a":1}}'
        self.assertIn(pod, asked)
        self.assertTrue(any('["recover-coordinators","--accept-loss"]' in line for line in asked), asked)
        self.assertTrue(any("metadata.name!=data-orders-coordinator-1" in line for line in asked), asked)
        self.assertEqual(asked[-1], "delete pod orders-recovery --ignore-not-found")
        for words in (["orders-data-1"], [], ["orders-coordinator-0", "orders-coordinator-1"]):
            self.assertEqual(self.call("recover-coordinators", *words)[0].returncode, 2, words)

    def test_a_number_is_asked_for_as_an_autoscaler_does(self):
        _, asked = self.call("scale", "5")
        self.assertEqual(asked[-1], "scale kvcluster orders --replicas=5")


class Site(unittest.TestCase):
    """The site of a documentation of two pages, with one thing wrong at a time."""

    INDEX = "# Index\n\n## Pages\n\n- [One](one.md): the one\n" + "".join(
        f"- [{name}](../{name}.md)\n" for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG")
    )

    def make(self, one: str, **others: str):
        parser = subprocess.run(["/usr/bin/python3", "-c", "import markdown_it"], capture_output=True)
        if parser.returncode != 0:
            what = "the site of the documentation needs python3-markdown-it"
            self.assertNotEqual(os.environ.get("CI"), "true", f"{what}; CI is to run everything")
            print(f"skipped: {what}")
            self.skipTest(what)
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for name in ("ci", "docs"):
                (root / name).mkdir()
            shutil.copy(HERE / "docs-site", root / "ci")
            for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG"):
                (root / f"{name}.md").write_text(f"# {name}\n")
            pages = {"README": self.INDEX, "one": one} | others
            for name, text in pages.items():
                (root / "docs" / f"{name}.md").write_text(text)
            done = subprocess.run([root / "ci/docs-site", root / "out"], capture_output=True, text=True)
            page = root / "out/docs/one.html"
            return done, page.read_text() if page.exists() else ""

    def test_links_lead_to_pages_of_the_site_and_their_headings(self):
        done, page = self.make("# One\n\n## A `name`, twice\n\n[up](README.md#pages), [here](#a-name-twice)\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn('href="README.html#pages"', page)
        self.assertIn('id="a-name-twice"', page)
        self.assertIn('<a href="../docs/one.html" aria-current="page">One</a>', page)

    def test_what_leads_nowhere_and_what_nothing_leads_to_are_errors(self):
        for one, others, problem in (
            ("# One\n[x](two.md)\n", {}, "the link to docs/two.md leads nowhere"),
            ("# One\n[x](README.md#paces)\n", {}, "docs/README.md has no heading #paces"),
            ("# One\n[x](#two)\n", {}, "docs/one.md has no heading #two"),
            ("# One\n", {"two": "# Two\n"}, "docs/two.md: no page"),
        ):
            done, page = self.make(one, **others)
            self.assertEqual(done.returncode, 1, one)
            self.assertIn(problem, done.stderr)
            self.assertEqual(page, "")


class Selection(unittest.TestCase):
    def test_whatever_uses_the_build_is_built_alike(self):
        # Whoever runs this may have it set.
        wrapper = os.environ.pop("RUSTC_WORKSPACE_WRAPPER", None)
        if wrapper:
            self.addCleanup(os.environ.__setitem__, "RUSTC_WORKSPACE_WRAPPER", wrapper)
        for step in run_tests.STEPS:
            words = " ".join(map(str, step.command))
            uses = "cargo build" in words or "cargo test" in words
            self.assertEqual("RUSTC_WORKSPACE_WRAPPER" in run_tests.environment(step), uses, step.name)

    def test_integration_tests_are_cargo_s(self):
        names = run_tests.test_targets()
        self.assertIn("scenarios", names)
        self.assertEqual(len(names), len(set(names)), "two test targets of one name run together")
        self.assertNotIn("scenarios", run_tests.integration(excluding=["scenarios"]))

    def test_every_target_runs_in_exactly_one_step(self):
        runs = {name: 0 for name in run_tests.test_targets()}
        for step in run_tests.STEPS:
            for flag, name in zip(step.command, step.command[1:]):
                if flag == "--test":
                    runs[name] += 1
        # The scenarios are cut in two by one filter, which is skipped here and asked for there.
        self.assertEqual(runs.pop("scenarios"), 2)
        self.assertEqual(set(runs.values()), {1}, runs)
        commands = {step.name: step.command for step in run_tests.STEPS}
        self.assertEqual(commands["process tests"][-2:], ["--skip", run_tests.CLIENTS])
        self.assertEqual(commands["clients"][-1], run_tests.CLIENTS)
        sources = HERE.parent / "tests/process/tests/scenarios"
        self.assertTrue((sources / run_tests.CLIENTS.rstrip(":")).is_dir())


class Shares(unittest.TestCase):
    def test_every_step_has_a_share_and_the_shares_fit(self):
        self.assertEqual({step.share for step in run_tests.STEPS}, set(run_tests.SHARES))
        self.assertLessEqual(sum(run_tests.SHARES.values()), 45)

    def test_a_share_that_is_overdrawn_is_seen(self):
        results = [
            run_tests.Result("tools", 1, 0, 0, 30.0, ""),
            run_tests.Result("clients", 1, 0, 0, 60.0, ""),
            run_tests.Result("simulator", 1, 0, 0, 600.0, ""),
        ]
        told = "\n".join(run_tests.shares(results))
        self.assertRegex(told, r"clients +1\.5 of 3 min$|clients +1\.5 of 3 min\n")
        self.assertRegex(told, r"simulator +10\.0 of 3 min, OVER ITS SHARE")


class Documentation(unittest.TestCase):
    def rows(self, heading: str):
        """The rows of the table below a heading row of docs/testing.md."""
        text = (HERE.parent / "docs/testing.md").read_text()
        table = text.split(heading, 1)[1].split("\n\n", 1)[0]
        rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in row] for row in rows if "---" not in row[0]]

    def test_the_table_of_steps_is_the_list_of_steps(self):
        documented = [row[0] for row in self.rows("| step | holds |")]
        self.assertEqual(documented, [step.name for step in run_tests.STEPS])

    def test_the_table_of_shares_is_what_run_tests_holds(self):
        documented = {row[0]: (row[1], row[2]) for row in self.rows("| share | steps | minutes |")}
        steps = {share: [] for share in run_tests.SHARES}
        for step in run_tests.STEPS:
            steps[step.share].append(step.name)
        self.assertEqual(
            documented,
            {share: (", ".join(steps[share]), str(run_tests.SHARES[share])) for share in steps},
        )


class Tools(unittest.TestCase):
    SCRIPTS = ("install-tools", "install-kubernetes")

    def install(self, script: str, **environment):
        """Runs a script of ci where nothing is installed and nothing can be."""
        with tempfile.TemporaryDirectory() as folder:
            for program in ("bash", "dirname"):
                (Path(folder) / program).symlink_to(shutil.which(program))
            identity = Path(folder) / "id"
            identity.write_text("#!/bin/bash\necho 1000\n")
            identity.chmod(identity.stat().st_mode | stat.S_IXUSR)
            kept = {name: value for name, value in os.environ.items() if name != "CI"}
            return subprocess.run(
                ["/bin/bash", str(HERE / script)],
                env={**kept, "PATH": folder, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def test_a_newcomer_without_the_tools_is_told_and_goes_on(self):
        for script in self.SCRIPTS:
            done = self.install(script)
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertIn("skipped", done.stdout)

    def test_under_ci_missing_tools_are_a_failure(self):
        for script in self.SCRIPTS:
            done = self.install(script, CI="true")
            self.assertNotEqual(done.returncode, 0, done.stdout)


class SeededBugs(unittest.TestCase):
    REFUSAL = "what is shipped cannot carry them"

    def errors(self, source: str, *flags: str) -> str:
        """What the compiler says of a crate by itself, without what it depends on."""
        command = ["rustc", "--edition=2024", "--crate-type=lib", "--emit=metadata", "-o", os.devnull]
        done = subprocess.run(
            [*command, *flags, str(HERE.parent / source)], stderr=subprocess.PIPE, text=True
        )
        return done.stderr

    def test_what_is_shipped_does_not_compile_with_them(self):
        for source in ("node/src/lib.rs", "cli/src/main.rs"):
            self.assertIn(self.REFUSAL, self.errors(source, "--cfg=seeded_bugs"), source)
            self.assertNotIn(self.REFUSAL, self.errors(source), source)

    def test_nothing_but_their_own_script_asks_for_them(self):
        asking = {
            path.relative_to(HERE.parent).as_posix()
            for path in tree.tracked()
            if "cfg seeded_bugs" in path.read_text(errors="replace") and path.suffix not in (".md", ".rs")
        }
        self.assertEqual(asking, {"ci/seeded-bugs", "ci/test_scripts.py"})


class OperatorMutations(unittest.TestCase):
    def test_each_is_one_of_the_sources_and_has_its_test(self):
        listed = operator_mutations.mutations()
        self.assertGreater(len(listed), 40)
        found = [problem for mutation in listed for problem in operator_mutations.problems(mutation)]
        self.assertEqual(found, [])

    def test_every_lesson_has_one(self):
        lines = (HERE.parent / "docs/testing.md").read_text().splitlines()
        begin = lines.index("| seen in | the rule | mutations |") + 2
        told = {}
        for line in lines[begin:]:
            if not line.startswith("|"):
                break
            lesson, _, names = (cell.strip() for cell in line.strip("|").split("|"))
            told[lesson] = sorted(name.strip("` ") for name in names.split(","))
        known = {}
        for mutation in operator_mutations.mutations():
            if mutation.lesson:
                known.setdefault(mutation.lesson, []).append(mutation.name)
        self.assertEqual(told, {lesson: sorted(names) for lesson, names in known.items()})

    def mutation(self, old: str, new: str, name: str = "m"):
        return operator_mutations.Mutation(name, "a rule", "a.rs", old, new, "tests::t")

    def test_pieces_stand_behind_their_switches(self):
        one = self.mutation("if «a» {", "true", "one")
        other = self.mutation("if a {", "b", "other")
        self.assertEqual(
            operator_mutations.mutated("f(); if a { g() }", [one]),
            'f(); if (if crate::mutations::is("one") { true } else { a }) { g() }',
        )
        with self.assertRaises(operator_mutations.Failure):
            operator_mutations.mutated("f(); if a { g() }", [one, other])
        # Of one piece there may be several.
        again = self.mutation("if «a» {", "false", "again")
        text = operator_mutations.mutated("if a {", [one, again])
        self.assertEqual((text.count("else if"), text.count("{ a }")), (1, 1))

    def test_what_is_not_there_once_is_told(self):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "a.rs").write_text("x y x")
            (root / "operator/src").mkdir(parents=True)
            (root / "operator/src/tests.rs").write_text("fn t() {}")
            problems = lambda *mutation: operator_mutations.problems(self.mutation(*mutation), root)
            self.assertEqual(problems("«y»", "z"), [])
            for old in ("x", "z", "«y", "»y«"):
                self.assertEqual(len(problems(old, "w")), 1, old)


class Tree(unittest.TestCase):
    def test_every_rule_of_the_design_is_explained(self):
        self.assertEqual(tree.rules(), set(range(1, 21)))


class Metrics(unittest.TestCase):
    TABLE = (
        "| metric | kind | labels | says |\n| --- | --- | --- | --- |\n"
        "| `cairn_a_total`, `cairn_b_total` | counter | `why`, `who` | a |\n"
        "| `cairn_c` | gauge | | c |\n"
    )
    SOURCE = (
        'counter!("cairn_a_total", "why" => f("(", x), "who" => me).increment(1);\n'
        'metrics::counter!(\n    "cairn_b_total",\n    "who" => me,\n    "why" => "x"\n);\n'
        'gauge!("cairn_c").set(1.0); describe_gauge!("cairn_d", "not one");\n'
    )

    def problems(self, source: str, table: str) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in ("a.rs", "metrics.md")]
            files[0].write_text(source)
            files[1].write_text(table)
            return metrics_table.check(files[:1], files[1])

    def test_a_table_of_all_that_is_emitted_is_right(self):
        self.assertEqual(self.problems(self.SOURCE, self.TABLE), [])

    def test_each_difference_is_found_in_either_direction(self):
        for source, table, what in (
            (self.SOURCE + 'gauge!("cairn_e")', self.TABLE, "does not list cairn_e"),
            (self.SOURCE, self.TABLE + "| `cairn_e` | gauge | | e |", "which is not there"),
            (self.SOURCE.replace('"who" => me,', ""), self.TABLE, "a counter by why"),
            (self.SOURCE, self.TABLE.replace("`why`, ", ""), "a counter by who; it is emitted"),
            (self.SOURCE.replace("gauge!(", "histogram!(", 1), self.TABLE, "a histogram by nothing"),
            (self.SOURCE + 'counter!("cairn_c")', self.TABLE, "a counter by nothing and as a gauge"),
            (self.SOURCE + "counter!(name)", self.TABLE, "by no literal"),
            (self.SOURCE, self.TABLE.replace(" | gauge |", " |"), "four cells"),
            (self.SOURCE, self.TABLE + "| `cairn_c` | gauge | | c |", "once more"),
        ):
            problems = self.problems(source, table)
            self.assertTrue(any(what in problem for problem in problems), (what, problems))


class Chart(unittest.TestCase):
    CHART = chart_readme.CHART

    def test_the_readme_is_that_of_the_values(self):
        wanted = chart_readme.readme((self.CHART / "values.yaml").read_text())
        self.assertEqual((self.CHART / "README.md").read_text(), wanted, "run ci/chart-readme")

    def test_the_alerts_are_those_of_monitoring(self):
        source = (HERE.parent / "monitoring/alerts.yaml").read_text()
        self.assertEqual((self.CHART / "files/alerts.yaml").read_text(), source, "run ci/chart-alerts")

    def test_a_comment_documents_what_is_below_it(self):
        entries = chart_readme.parse(
            "# Not this.\n\na:\n  # -- The first\n  # of two.\n  b: 1\n# -- A map.\nc:\n"
            "  d:\n    e: x-y\n  f: []\n# -- Last.\ng: \"\"\n"
        )
        told = [(entry.path, entry.default, entry.text) for entry in entries]
        self.assertEqual(
            told,
            [
                ("a.b", 1, "The first of two."),
                ("c", {"d": {"e": "x-y"}, "f": []}, "A map."),
                ("g", "", "Last."),
            ],
        )

    def test_a_value_without_a_comment_or_on_several_lines_is_an_error(self):
        for source in ("a: 1\n", "# -- A list.\na:\n- b\n", "# -- Text.\na: |\n   b\n"):
            with self.assertRaises(chart_readme.Malformed, msg=source):
                chart_readme.parse(source)

    def test_the_schema_knows_every_value_and_no_other(self):
        schema = json.loads((self.CHART / "values.schema.json").read_text())

        def leaves(node: dict, path: str = ""):
            for name, inner in node["properties"].items():
                inner_path = f"{path}.{name}".lstrip(".")
                if inner.get("properties") and inner.get("additionalProperties") is False:
                    yield from leaves(inner, inner_path)
                else:
                    yield inner_path

        # Helm hands `global` to every chart.
        known = set(leaves(schema)) - {"global"}
        entries = chart_readme.parse((self.CHART / "values.yaml").read_text())
        self.assertEqual({entry.path for entry in entries}, known)

    def test_the_definition_is_a_template_that_is_kept(self):
        # Helm installs what is in a folder of that name once, and never brings it up to date.
        self.assertFalse((self.CHART / "crds").exists())
        template = (self.CHART / "templates/crd.yaml").read_text()
        steps = [
            "{{- if .Values.crds.create }}",
            '.Files.Get "files/kvcluster.yaml"',
            "{{- if .Values.crds.keep }}",
            "helm.sh/resource-policy: keep",
            "{{ $definition }}",
        ]
        places = [template.find(step) for step in steps]
        self.assertNotIn(-1, places)
        self.assertEqual(places, sorted(places))
        entries = chart_readme.parse((self.CHART / "values.yaml").read_text())
        defaults = {entry.path: entry.default for entry in entries}
        self.assertEqual((defaults["crds.create"], defaults["crds.keep"]), (True, True))

    def test_an_operator_of_some_namespaces_has_rights_in_them_alone(self):
        template = (self.CHART / "templates/rbac.yaml").read_text()
        some, rest = template.split("{{- if .Values.watchNamespaces }}")[1].split("{{- else }}", 1)
        objects = re.findall(r"^kind: (\w+)\nmetadata:\n  name: .*\n  namespace: {{ \. }}$", some, re.MULTILINE)
        self.assertEqual(objects, ["Role", "RoleBinding"])
        self.assertEqual(re.findall(r"^kind: (\w+)$", some, re.MULTILINE), objects)
        # What belongs to no namespace is read by a right of its own, which can be left out.
        _, nodes = rest.split("{{- if .Values.rbac.nodes }}")
        everywhere = '["nodes"]', '["persistentvolumes"]'
        helpers = (self.CHART / "templates/_helpers.tpl").read_text()
        for resource in everywhere:
            self.assertIn(resource, nodes)
            self.assertNotIn(resource, helpers + template.replace(nodes, ""))

    def test_the_versions_are_the_workspaces(self):
        manifest = tomllib.loads((HERE.parent / "Cargo.toml").read_text())
        version = manifest["workspace"]["package"]["version"]
        chart = (self.CHART / "Chart.yaml").read_text().splitlines()
        for field in ("version", "appVersion"):
            self.assertIn(f"{field}: {version}", chart)


if __name__ == "__main__":
    unittest.main()
