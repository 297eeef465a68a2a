"""Python code in processes of its own, and the `zerrow` command."""

import os
import subprocess
import sys
import textwrap
from ast import literal_eval
from typing import Any

_WARNINGS = "ignore::DeprecationWarning"


def run_python(
    code: str, *, warnings: str = _WARNINGS, timeout: float | None = None, **environ: str
) -> str:
    """Run code in a fresh interpreter; return what it printed. Its assertions are the test's."""
    done = subprocess.run(
        [sys.executable, "-W", warnings, "-c", textwrap.dedent(code)],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def zerrow(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run the `zerrow` command."""
    command = [sys.executable, "-m", "zerrow_store.cli.main", *arguments]
    env = os.environ | environ
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


_LOOP = """
import ast, sys, traceback
names = {}
for line in sys.stdin:
    try:
        code = ast.parse(ast.literal_eval(line))
        last = code.body.pop() if isinstance(code.body[-1], ast.Expr) else None
        exec(compile(code, "<told>", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "<told>", "eval"), names) if last else None
        answer = ("value", value)
        del value
    except BaseException as error:
        answer = ("error", "".join(traceback.format_exception(error)))
    print(repr(answer), flush=True)
    del answer
"""


class Worker:
    """A Python process that runs what it is told, statement by statement.

    prefix: a command that starts it, with its arguments.
    """

    def __init__(self, *prefix: str) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-c", _LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def do(self, code: str) -> Any:
        """Run code there; returns the value of its last expression, a literal."""
        self.start(code)
        return self.finish()

    def start(self, code: str) -> None:
        """Begin to run code there."""
        assert self._process.stdin is not None
        self._process.stdin.write(repr(textwrap.dedent(code)) + "\n")
        self._process.stdin.flush()

    def finish(self) -> Any:
        """Wait for what was begun; returns the value of its last expression, a literal."""
        assert self._process.stdout is not None
        kind, value = literal_eval(self._process.stdout.readline())
        assert kind == "value", value
        return value

    def kill(self) -> None:
        """End it as `kill -9` does; returns when it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
