"""From input to main and back: what authors write and what they see when it fails."""

from __future__ import annotations

import json
import textwrap

import pytest
from lab import Lab
from pie_runner.wasm.fiber import Limits
from pie_runner.wasm.program import Program
from pie_wire.errors import ProgramError, Trapped


@pytest.mark.parametrize(
    ("signature", "value", "wanted"),
    [
        ("main()", {"ignored": 1}, []),
        ("main(name)", {"name": "a"}, ["a"]),
        ("main(name='x', n=3)", {"n": 4}, ["x", 4]),
        ("main(name='x')", {}, ["x"]),
        ("main(name='x')", None, ["x"]),
        ("main(input)", {"a": 1}, [{"a": 1}]),
        ("main(request)", {"a": 1}, [{"a": 1}]),
        ("main(request)", "text", ["text"]),
        ("main(request)", [1, 2], [[1, 2]]),
        ("main(a, **rest)", {"a": 1, "b": 2}, [1, {"b": 2}]),
        ("main(*, a)", {"a": 1}, [1]),
    ],
)
def test_how_the_input_meets_the_parameters(lab: Lab, python: Program, signature: str, value: object, wanted: object):
    names = [part.strip(" *)").partition("=")[0] for part in signature.partition("(")[2].split(",")]
    source = f"def {signature}: return [{', '.join(name for name in names if name)}]"

    assert lab.run(python, source, value).value == wanted


def test_an_input_that_main_has_no_use_for(lab: Lab, python: Program):
    error = lab.run(python, "def main(name, n=1): pass", {"nmae": "a"}).error

    assert str(error) == "The input has no use for 'nmae'; it takes ['n', 'name']."


def test_an_input_that_lacks_something(lab: Lab, python: Program):
    error = lab.run(python, "def main(name, n): pass", {"n": 1}).error

    assert str(error) == "The input lacks 'name'; main takes ['n', 'name']."


@pytest.mark.parametrize(
    ("annotation", "value", "wanted"),
    [
        ("str", 5, "5"),
        ("str", True, "true"),
        ("'str'", 1.5, "1.5"),
        ("int", 3.0, 3),
        ("float", 3, 3),
        ("bool", False, False),
        ("int | None", None, None),
        ("list[int]", [1], [1]),
    ],
)
def test_values_that_fit(lab: Lab, python: Program, annotation: str, value: object, wanted: object):
    assert lab.run(python, f"def main(a: {annotation}, b=0): return a", {"a": value}).value == wanted


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        ("str", [1], "a string, not [1]"),
        ("int", "many", 'an integer, not "many"'),
        ("int", 1.5, "an integer, not 1.5"),
        ("float", "x" * 100, f'a number, not "{"x" * 79}...'),
        ("bool", 1, "true or false, not 1"),
    ],
)
def test_values_that_do_not_fit(lab: Lab, python: Program, annotation: str, value: object, words: str):
    error = lab.run(python, f"def main(a: {annotation}, b=0): return a", {"a": value}).error

    assert str(error) == f"The input's 'a' must be {words}."


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("'text'", "text"),
        ("None", None),
        ("{'a': (1, 2.5, True)}", {"a": [1, 2.5, True]}),
        ("{1, 1}", [1]),
        ("P(1, 'b')", {"x": 1, "y": "b"}),
        ("'\\u2713 \\u00fc'", "✓ ü"),
    ],
)
def test_results_are_json(lab: Lab, python: Program, expression: str, wanted: object):
    source = f"""
import dataclasses
@dataclasses.dataclass
class P:
    x: int
    y: str
def main(): return {expression}
"""
    assert lab.run(python, source).value == wanted


def test_a_result_that_is_no_json(lab: Lab, python: Program):
    error = lab.run(python, "def main(): return object()").error

    assert "main returned something that is not JSON: object is not JSON" in str(error)


def test_sync_async_and_awaitable_mains(lab: Lab, python: Program):
    assert lab.run(python, "def main(): return 1").value == 1
    assert lab.run(python, "async def main(): return 2").value == 2
    assert lab.run(python, "async def work(): return 3\ndef main(): return work()").value == 3


def test_a_program_without_main(lab: Lab, python: Program):
    assert str(lab.run(python, "x = 1").error) == "program.py defines no function `main`."


def test_a_traceback_names_file_line_and_code(lab: Lab, python: Program):
    source = textwrap.dedent("""\
        import json

        def parse(text):
            return json.loads(text)

        async def main():
            return parse("{")
        """)

    text = str(lab.run(python, source).error)

    lines = text.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == '  File "program.py", line 7, in main'
    assert lines[2].strip() == 'return parse("{")'
    assert 'File "program.py", line 4, in parse' in text
    assert lines[-1].startswith("json.decoder.JSONDecodeError: Expecting property name")
    assert "entry.py" not in text


def test_a_syntax_error_shows_the_place(lab: Lab, python: Program):
    text = str(lab.run(python, "def main():\n    return (1\n").error)

    assert 'File "program.py", line 2' in text
    assert "SyntaxError" in text


def test_exceptions_of_tasks_keep_their_traceback(lab: Lab, python: Program):
    source = textwrap.dedent("""\
        import asyncio
        async def broken():
            raise KeyError("lost")
        async def main():
            async with asyncio.TaskGroup() as group:
                group.create_task(broken())
        """)

    text = str(lab.run(python, source).error)

    assert "ExceptionGroup" in text
    assert 'File "program.py", line 3, in broken' in text
    assert "KeyError: 'lost'" in text


def test_an_error_of_the_host_ends_at_the_line_that_asked(lab: Lab, python: Program):
    source = textwrap.dedent("""\
        from inferlet import Model

        async def main():
            return Model.load("gpt")
        """)

    text = str(lab.run(python, source).error)

    assert text.splitlines()[1:] == [
        '  File "program.py", line 4, in main',
        '    return Model.load("gpt")',
        "           ~~~~~~~~~~^^^^^^^",
        "inferlet.errors.PieError: There is no model 'gpt'; there is letters. [not_found]",
    ]


def test_exit(lab: Lab, python: Program):
    assert lab.run(python, "import sys\ndef main(): sys.exit(0)").value is None
    assert str(lab.run(python, "import sys\ndef main(): sys.exit('no luck')").error) == "exit: no luck"


def test_output_comes_line_by_line(lab: Lab, python: Program):
    source = textwrap.dedent("""\
        import sys
        def main():
            print("one")
            print("two ", end="")
            print("✓")
            sys.stderr.write("warning\\n")
            sys.stdout.write("no end")
        """)

    launch = lab.run(python, source)

    assert launch.instance.out == [
        ("stdout", "one\n"),
        ("stdout", "two ✓\n"),
        ("stderr", "warning\n"),
        ("stdout", "no end"),
    ]


def test_output_before_a_failure_is_kept(lab: Lab, python: Program):
    launch = lab.run(python, "def main():\n    print('so far', end='')\n    1/0")

    assert launch.stdout == "so far"
    assert "ZeroDivisionError" in str(launch.error)


def test_random_is_the_hosts(lab: Lab, python: Program):
    source = """
import random, secrets, uuid
def main(): return [random.random(), secrets.token_hex(4), str(uuid.uuid4())]
"""

    first, second = lab.run(python, source).value, lab.run(python, source).value
    lab.fake.random.seed(7)
    lab2_first = lab.run(python, source).value

    assert first != second
    assert lab2_first == first, "a run repeats when the host gives the same bytes"


def test_absent_modules_say_so(lab: Lab, python: Program):
    text = str(lab.run(python, "import numpy\ndef main(): pass").error)

    assert "No module named 'numpy' in the inferlet runtime" in text
    assert 'File "program.py", line 1' in text


def test_a_broad_standard_library(lab: Lab, python: Program):
    modules = [
        *("json", "re", "math", "random", "statistics", "decimal", "fractions", "datetime", "zoneinfo", "textwrap"),
        *("collections", "itertools", "functools", "dataclasses", "enum", "typing", "abc", "contextlib", "asyncio"),
        *("html.parser", "xml.etree.ElementTree", "urllib.parse", "base64", "hashlib", "hmac", "secrets", "uuid"),
        *("csv", "io", "pathlib", "tomllib", "argparse", "logging", "unittest.mock", "difflib", "heapq", "bisect"),
        *("string", "struct", "zlib", "unicodedata", "ast", "inspect", "traceback", "graphlib", "concurrent.futures"),
    ]
    source = f"import {', '.join(modules)}\ndef main(): return len('é'.encode('latin-1')), json.dumps(1)"

    assert lab.run(python, source).value == [1, "1"]


def test_nothing_of_the_host_is_there(lab: Lab, python: Program):
    source = textwrap.dedent("""\
        import os
        def attempt(what):
            try:
                return repr(what())
            except Exception as exc:
                return type(exc).__name__
        def main():
            return [dict(os.environ), attempt(lambda: os.listdir("/")), attempt(lambda: open("/etc/passwd").read())]
        """)

    assert lab.run(python, source).value == [{}, "FileNotFoundError", "FileNotFoundError"]


def test_recursion_ends_with_a_python_error(lab: Lab, python: Program):
    text = str(lab.run(python, "def f(n): return f(n + 1)\ndef main(): f(0)").error)

    assert "RecursionError" in text


def test_recursion_beyond_pythons_own_limit_hurts_only_itself(lab: Lab, python: Program):
    source = "import sys\ndef f(n): return [f(n + 1)]\ndef main():\n    sys.setrecursionlimit(10**6)\n    f(0)"
    error = lab.run(python, source).error

    assert isinstance(error, ProgramError)
    assert lab.run(python, "def main(): return 'alive'").value == "alive"


def test_a_memory_bomb_is_a_memory_error(lab: Lab, python: Program):
    source = "def main():\n    hold = []\n    while True: hold.append(bytearray(1 << 20))"

    launch = lab.run(python, source, limits=Limits(memory_bytes=128 << 20))

    assert "MemoryError" in str(launch.error) or isinstance(launch.error, Trapped)


def test_sleeping_blocks_nobody(lab: Lab, python: Program):
    launches = [lab.start(python, "import time\ndef main(): time.sleep(0.2); return time.time()") for _ in range(10)]
    lab.drive(timeout=5)

    assert max(launch.value for launch in launches) - min(launch.value for launch in launches) < 0.5


def test_globals_do_not_survive_a_launch(lab: Lab, python: Program):
    source = "import json\ndef main():\n    seen = hasattr(json, 'mark')\n    json.mark = True\n    return seen"

    assert [lab.run(python, source).value for _ in range(2)] == [False, False]


def test_the_host_learns_which_of_its_errors_ended_the_program(lab: Lab, python: Program):
    source = "from inferlet import Model\ndef main(): Model.load('nothing of that name')"

    launch = lab.run(python, source)

    assert launch.fiber.data.cause == "not_found"


def test_new_objects_lie_together(lab: Lab, python: Program):
    source = """
    def main():
        blocks = [bytes(size) for size in (20, 40, 100, 300, 1000) for _ in range(50)]
        return len({id(block) >> 12 for block in blocks})
    """

    pages = lab.run(python, textwrap.dedent(source)).value

    assert pages <= 40, "73 KB fill 18 pages where the heap has no gaps, and lie on some 200 where it has"


def test_rehearsals_leave_nothing_behind(lab: Lab, python: Program):
    source = """
    import asyncio, linecache, sys

    def main():
        before = sys.gettrace(), asyncio.events._get_running_loop()
        return [*before, "rehearsal.py" in linecache.cache, sys.modules["inferlet_main"].main is main]
    """

    assert lab.run(python, textwrap.dedent(source)).value == [None, None, False, True]


def test_what_an_image_has_is_immortal_and_what_a_program_makes_is_not(lab: Lab, python: Program):
    source = """
    import inspect, json, sys, weakref
    from inferlet import Context

    class Mine:
        pass

    def main():
        shared = json.dumps, json.dumps.__code__.co_consts, inspect.Parameter, Context.__doc__, sys.modules
        died = []
        mine = Mine()
        weakref.finalize(mine, died.append, True)
        counts = sys.getrefcount(mine), sys.getrefcount(Mine)
        del mine
        return [all(sys.getrefcount(each) >= 1 << 30 for each in shared), max(counts) < 20, died]
    """

    assert lab.run(python, textwrap.dedent(source)).value == [True, True, [True]]


def test_the_garbage_collector_bears_immortal_objects(lab: Lab, python: Program):
    source = """
    import gc, json, re

    class Ring:
        def __init__(self):
            self.self = self

    def main():
        gc.unfreeze()
        json.ring = Ring()  # held by an immortal module
        for _ in range(3):
            rings = [Ring() for _ in range(5000)]
            del rings
            found = gc.collect()
        alive = sum(isinstance(each, Ring) for each in gc.get_objects())
        for module in (json, re):
            del module.__dict__["__doc__"]
        return [found >= 5000, alive, json.loads("[1]"), re.sub("a", "b", "aa"), json.ring.self is json.ring]
    """

    assert lab.run(python, textwrap.dedent(source)).value == [True, 1, [1], "bb", True]


def ask_for_code(lab: Lab, python: Program, source: str) -> str | None:
    launch = lab.launch(python, json.dumps({"compile": source, "filename": "inferlet.py"}))
    lab.drive()
    return launch.value


def test_code_that_was_made_before_runs_like_its_source(lab: Lab, python: Program):
    source = "seen = [__name__]\ndef main(n: int):\n    return 10 // n\n"
    code = ask_for_code(lab, python, source)
    assert code is not None

    def launch(n: int):
        envelope = {"source": source, "filename": "inferlet.py", "code": code, "input": {"n": n}}
        made = lab.launch(python, json.dumps(envelope))
        lab.drive()
        return made

    assert launch(3).value == 3
    failure = launch(0).error
    assert failure is not None
    assert 'File "inferlet.py", line 3' in failure.message
    assert "return 10 // n" in failure.message


@pytest.mark.parametrize("source", ["def main(:", "x = '\\d'", "a = 1 is 1", "x\0"])
def test_of_source_that_has_something_to_say_no_code_is_made(lab: Lab, python: Program, source: str):
    assert ask_for_code(lab, python, source) is None


def test_to_compile_runs_nothing(lab: Lab, python: Program):
    launch = lab.launch(python, json.dumps({"compile": "print('ran')\nraise SystemExit(3)", "filename": "inferlet.py"}))
    lab.drive()

    assert isinstance(launch.value, str)
    assert launch.stdout == ""


def test_parameters_are_those_that_inspect_finds(lab: Lab, python: Program):
    source = """
    import functools, inspect
    from inferlet import entry

    def wrapped(main):
        @functools.wraps(main)
        def outer(*args):
            return main(*args)
        return outer

    class Made:
        def method(self, a, b: int = 1): pass
        def __call__(self, c): pass

    def one(): pass
    def two(a, b: int, c: "str" = "x", d=None) -> int: pass
    def three(a, /, b, c=2, *, d, e: float = 1.5): local = a
    def four(*rest: int): pass
    def five(a=1, /, *rest, k: bool = True, **more: str): x = y = z = 0
    async def six(input, *, n: int): return [each for each in input]

    def main():
        every = [one, two, three, four, five, six, wrapped(two), Made().method, Made(), Made, functools.partial(two, 1),
                 lambda a, b=2: a]
        def told(params):
            return [(each.name, each.kind, each.default, each.annotation) for each in params]
        return [told(entry.parameters(each)) == told(inspect.signature(each).parameters.values()) for each in every]
    """

    assert lab.run(python, textwrap.dedent(source)).value == [True] * 12
