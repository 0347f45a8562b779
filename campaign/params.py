"""Values of every type and size for every key of params.yaml, and files that are no params.

Held is a value that is taken and comes back as it was given, through JSON too, or one message that names file and key.
"""

from __future__ import annotations

import copy
import io
import json
import math
import multiprocessing
import multiprocessing.connection
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st
from ruamel.yaml import YAML

from benchmarks.timing import ROOT
from campaign.sandbox import MEMORY
from campaign.tally import Plan, Tally
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import parse_yaml, read_yaml
from pipeline_lib.params import MOST, Params, parse

EACH: Final = 8
"""Values that are tried of each key, beside the extremes."""
SLOW: Final = 5.0
"""Seconds after which a file has hung."""
HUNG: Final = object()
LONGEST: Final = 10_000
"""Characters of a message that a person reads."""
EXTREMES: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63,
    10**30,
    -(10**30),
    1e30,
    1e308,
    5e-324,
    -0.0,
    0.1,
    math.inf,
    -math.inf,
    math.nan,
    "",
    " ",
    "\0",
    "a\0b",
    "line\nbreak",
    "\u2028",
    "\x1b[31m",
    "~",
    "/",
    "..",
    "x" * 5000,
    "1e-05",
    "0x10",
    "yes",
    "é",
    "\ud7ff",
    [],
    [0],
    [None],
    [1, 2],
    [2, 1],
    [1.0, math.nan],
    [[]],
    ["a"] * 200,
    [[[[[[1]]]]]],
    {},
    {"a": 1},
    {"": {}},
    {1: 2},
    b"bytes",
)


def run(plan: Plan) -> Iterator[Tally]:
    """Each half in a process of its own, since it may take all memory or hang."""
    yield apart("params: values of every key", plan, values)
    yield apart("params: files", plan, files)


def apart(what: str, plan: Plan, work: Callable[[Plan, multiprocessing.connection.Connection], None]) -> Tally:
    """Counts what a process tells; its end, if it comes too early, is a failure of the attempt before."""
    tally = Tally(what)
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=work, args=(plan, theirs))
    process.start()
    theirs.close()
    attempt, ended = "the first", False
    while not ended:
        try:
            told: Any = ours.recv() if ours.poll(20 * SLOW) else HUNG
        except EOFError:  # it has ended
            told = HUNG
        if told is HUNG:
            process.kill()
            process.join()
            tally.count(f"the process hung or ended, with status {process.exitcode}", f"after {attempt}")
            return tally
        ended = told is None
        if told is not None:
            attempt = told[1]
            tally.count(*told)
    process.join()
    return tally


def values(plan: Plan, out: multiprocessing.connection.Connection) -> None:
    """Every key with the extremes and with values that Hypothesis makes up; tells (fault, attempt) of each."""
    bounded()
    defaults = read_yaml(ROOT / "params.yaml")
    extremes, step = [each for value in EXTREMES for each in written(value)], round(1 / plan.share)
    for number, key in enumerate(keys_of(defaults)):
        for value in (*extremes[number % step :: step], *made_up(plan, key)):
            fault = fault_of(plan.scratch / "params.yaml", defaults, key, value)
            out.send((fault, f"seed {plan.seed}, {key}: {str(value)[:60]!r}"))
    out.send(None)


def bounded() -> None:
    """Bounds the memory of this process."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def keys_of(found: dict[str, Any], above: str = "") -> Iterator[str]:
    """All keys, those of sections too, with what they stand below."""
    for key, value in found.items():
        yield above + key
        if isinstance(value, dict):
            yield from keys_of(value, f"{above}{key}.")


def made_up(plan: Plan, key: str) -> list[Any]:
    """Values of any type, nested ones too."""
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
    anything = st.recursive(
        plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
    )
    near = st.integers(-2, 3000) | st.floats(-1, 3) | st.lists(st.floats(0, 2) | st.integers(0, 300), max_size=3)
    found: list[Any] = []

    @hypothesis.seed(int(plan.random(key).integers(1 << 32)))
    @hypothesis.settings(
        max_examples=plan.times(EACH), database=None, deadline=None, suppress_health_check=list(HealthCheck),
        phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(near if len(key) % 2 else anything | near)
    def keep(value: Any) -> None:
        found.extend(written(value))

    keep()
    return found


def fault_of(path: Path, defaults: dict[str, Any], key: str, value: Any) -> str:
    """What is wrong with how params with one other value are taken; "" where nothing is."""
    found = copy.deepcopy(defaults)
    place = found
    *sections, leaf = key.split(".")
    for section in sections:
        place = place[section]
    place[leaf] = value
    return judged(lambda: parse(found, str(path)), path, key)


def written(value: Any) -> list[Any]:
    """A value as it is read back from YAML; nothing where YAML can't hold it."""
    stream = io.StringIO()
    try:
        YAML(typ="safe", pure=True).dump([value], stream)
        found: list[Any] = parse_yaml(stream.getvalue())
    except Exception:  # noqa: BLE001  the library's own limits; what it says of files, `files` looks at
        return []
    return found


def reading_fault(path: Path, key: str = "") -> str:
    """Reads params as every stage does; what is wrong, or ""."""
    return judged(lambda: parse(read_yaml(path), str(path)), path, key)


def judged(take: Callable[[], Params], path: Path, key: str) -> str:
    """What is wrong with how params are taken; "" where nothing is."""
    started = time.process_time()  # other work does not count
    try:
        found = take()
    except PipelineError as failure:
        return message_fault(str(failure), path, key, time.process_time() - started)
    except BaseException as failure:  # noqa: BLE001  this is what is looked for
        return f"{type(failure).__name__}: {str(failure)[:200]}"
    told = found.model_dump(mode="json")
    try:
        again = parse(json.loads(json.dumps(told, allow_nan=False)), str(path))
    except (PipelineError, ValueError) as failure:
        return f"was taken, and its record can't be read: {str(failure)[:200]}"
    if again != found:
        return "was taken, and its record says something else"
    return "" if all(map(sound, flat(told))) else "was taken, though nothing can be done with it"


def message_fault(words: str, path: Path, key: str, seconds: float) -> str:
    """What is wrong with a message; "" where it names file and key, and can be read by a person."""
    if seconds > SLOW:
        return f"took {seconds:.0f} s"
    if str(path) not in words:
        return f"names no file: {words[:200]}"
    if len(words) > LONGEST:
        return f"the message has {len(words)} characters"
    named = not key or key.rpartition(".")[2] in words.replace(str(path), "") or "line" in words
    return "" if named else f"does not name the key: {words[:200]}"


def flat(value: Any) -> Iterator[Any]:
    """The values below others."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from flat(each)
    else:
        yield value


def sound(value: Any) -> bool:
    """Whether a value of the params can be computed with, shown and named."""
    if isinstance(value, str):
        return value.isprintable()
    return not isinstance(value, int | float) or (
        math.isfinite(value) and (isinstance(value, float) or abs(value) <= MOST)
    )


def files(plan: Plan, out: multiprocessing.connection.Connection) -> None:
    """params.yaml changed as text, and files that are none; tells (fault, attempt) of each."""
    bounded()
    path = plan.scratch / "params.yaml"
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for name, data in odd_files(text):
        path.write_bytes(data)
        out.send((reading_fault(path), name))
    lines = text.splitlines(keepends=True)
    for number in range(plan.times(120)):
        random = plan.random("file", number)
        row = int(random.integers(len(lines)))
        doubled = "".join([*lines[: row + 1], lines[row], *lines[row + 1 :]])
        path.write_text(doubled, encoding="utf-8")
        out.send((doubled_fault(path, lines[row]), f"seed {plan.seed}, line {row + 1} twice"))
        place, size = int(random.integers(len(text))), int(random.integers(1, 20))
        noise = "".join(map(chr, random.choice(list(b":-{}[]&*!|>'\"%@`#,? \t\n0a~"), size).tolist()))
        path.write_text(text[:place] + noise + text[place:], encoding="utf-8")
        out.send((reading_fault(path), f"seed {plan.seed}, file {number}: {noise!r} at {place}"))
    out.send(None)


def doubled_fault(path: Path, line: str) -> str:
    """A key that is given twice is told; a line that gives none may stand as often as it likes."""
    fault = reading_fault(path)
    if fault or not line.split("#", maxsplit=1)[0].strip():
        return fault
    try:
        parse_yaml(path.read_text(encoding="utf-8"))
    except Exception:  # noqa: BLE001  whatever the library says of it, `reading_fault` has looked at
        return ""
    return "a key that stands twice was taken"


def odd_files(text: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of files that are no params, or hardly."""
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    whole = text.encode()
    yield from {
        "empty": b"",
        "nul": b"\0",
        "words": b"no params",
        "list": b"- 1\n",
        "tab": b"name:\tx\n\ty: 1\n",
        "UTF-16": text.encode("utf-16"),
        "Latin-1": "name: caf\xe9\n".encode("latin-1"),
        "byte order mark": b"\xef\xbb\xbf" + whole,
        "carriage returns": text.replace("\n", "\r\n").encode(),
        "two documents": whole + b"---\n" + whole,
        "cut": whole[: len(whole) // 2],
        "deep list": b"name: " + b"[" * 20_000,
        "deep map": b"name: " + b"{a: " * 20_000,
        "deep lines": "".join(" " * n + "a:\n" for n in range(2000)).encode(),
        "bomb": bomb.encode(),
        "bomb in a key": (bomb + text.replace("beside: []", "beside: *a8")).encode(),
        "endless": b"name: &a [*a]\n",
        "merge": b"<<: 1\n" + whole,
        "merged": b"a: &a {seed: 1}\nb: {<<: *a, <<: *a}\n",
        "object": b"name: !!python/object/apply:os.system [true]\n",
        "binary": b"name: !!binary aGVsbG8=\n",
        "tag": b"name: !unknown x\n",
        "time": b"name: 2020-01-01\n",
        "set": b"name: !!set {a}\n",
        "huge": b"name: " + b"9" * 200_000,
        "long key": b"x" * 200_000 + b": 1\n",
        "many keys": "".join(f"k{n}: 1\n" for n in range(3000)).encode(),
        "null key": b"~: 1\n" + whole,
        "number key": b"1: 1\n" + whole,
        "list key": b"[1]: 1\n" + whole,
        "map key": b"{a: 1}: 1\n" + whole,
        "escape": b'name: "\x1b[31m"\n',
        "escaped": b'name: "\\u0000"\n',
        "surrogate": b'name: "\\ud800"\n',
        "directive": b"%YAML 3.0\n---\n" + whole,
    }.items()
