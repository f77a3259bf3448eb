"""Tests of the scripts in this folder."""

import contextlib
import importlib.machinery
import importlib.util
import io
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True


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
        step = run_tests.Step("probe", [sys.executable, "-c", script], minutes)
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

    def test_the_last_line_sums_up(self):
        results = [run_tests.Result("a", 2, 0, 0, 1.0, ""), run_tests.Result("b", 3, 1, 0, 1.0, "")]
        self.assertEqual(run_tests.summary(results).splitlines()[-1], "5 passed, 1 failed")


class Selection(unittest.TestCase):
    def test_integration_tests_are_cargo_s(self):
        names = run_tests.test_targets()
        self.assertIn("scenarios", names)
        self.assertEqual(len(names), len(set(names)), "two test targets of one name run together")
        self.assertNotIn("scenarios", run_tests.integration(excluding=["scenarios"]))


class Tree(unittest.TestCase):
    def test_every_rule_of_the_design_is_explained(self):
        self.assertEqual(tree.rules(), set(range(1, 20)))


if __name__ == "__main__":
    unittest.main()
