#!/usr/bin/env python3
"""Lists the functions that pilot-agent runs once it is ready, for pilot-agent/build.rs.

    cargo build --release --bins && cargo bench -p ithildin-tests --bench footprint --no-run
    tests/benches/hot_functions.py target/release > pilot-agent/hot-functions.txt

The footprint's scene runs under callgrind on both data planes. It needs root, valgrind, and the variables
that the footprint needs. A list is as good as the release build that it was made from: a few new functions
at the end of memory cost little, another compiler's names cost all of it.
"""

import collections
import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HEADER = """\
# The functions of pilot-agent that run once it is ready: those of both data planes, those beside an Envoy,
# those of the built-in proxy; then those of its start.
# Made by tests/benches/hot_functions.py; build.rs has a release build laid out in this order.
"""
# Instructions are counted in steps of so many basic blocks.
STEP = 20_000_000
# The first steps are the start.
START_STEPS = 2
WRAPPER = """\
#!/bin/sh
if [ "$1" = proxy ] && [ "$POD_NAME" = sleep-0 ]; then
  exec valgrind --tool=callgrind --demangle=no --vgdb=no --child-silent-after-fork=yes \\
    --dump-every-bb={step} --callgrind-out-file={folder}/$(cat {folder}/plane)/out.%p --log-file=/dev/null \\
    {folder}/pilot-agent.real "$@"
fi
exec {folder}/pilot-agent.real "$@"
"""


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    target = pathlib.Path(sys.argv[1])
    agent = target / "pilot-agent"
    with tempfile.TemporaryDirectory() as folder:
        lay_out(pathlib.Path(folder), target, agent)
        profiles = {plane: record(folder, plane) for plane in ("envoy", "builtin")}
    known = symbols(agent)
    steady, start = in_order(profiles["envoy"], profiles["builtin"])
    steady = [name for name in steady if name in known]
    start = sorted(name for name in start if name in known)
    print(f"{len(steady)} functions run when it is ready, {len(start)} at its start", file=sys.stderr)
    print(HEADER + "\n".join(steady + start))


def lay_out(folder, target, agent):
    """The scene looks for the programs in the folder above its own."""
    folder.chmod(0o755)
    benches = target.glob("deps/footprint-*")
    bench = max((it for it in benches if not it.suffix), key=lambda it: it.stat().st_mtime)
    (folder / "deps").mkdir()
    shutil.copy(bench, folder / "deps" / "footprint")
    shutil.copy(target / "ithildin-test-peer", folder)
    shutil.copy(agent, folder / "pilot-agent.real")
    wrapper = folder / "pilot-agent"
    wrapper.write_text(WRAPPER.format(step=STEP, folder=folder))
    wrapper.chmod(0o755)


def record(folder, plane):
    """The profiles of one data plane, as `functions` has them. What the scene finds too slow under callgrind
    does not matter: they are there by then."""
    print(f"recording {plane}: some minutes", file=sys.stderr)
    folder = pathlib.Path(folder)
    (folder / "plane").write_text(plane)
    (folder / plane).mkdir()
    (folder / plane).chmod(0o777)
    with open(folder / f"{plane}.log", "wb") as log:
        command = [folder / "deps" / "footprint", plane]
        subprocess.run(command, cwd="tests", stdout=log, stderr=log, check=False)
    return functions(folder / plane)


def functions(profiles):
    """Those that ran in a steady state, with the number of steps that they ran in, and those of the start."""
    steady, start = collections.Counter(), set()
    for path in glob.glob(os.path.join(profiles, "out.*.*")):
        step = int(path.rsplit(".", 1)[1])
        if step <= START_STEPS:
            start |= ran(path)
        else:
            steady.update(ran(path))
    if not steady:
        sys.exit("nothing was recorded: does the footprint run here?")
    # The start may take a step more.
    once = [name for name, steps in steady.items() if steps == 1 and name in start]
    for name in once:
        del steady[name]
    return steady, start


def in_order(envoy, builtin):
    """What runs in each agent lies in one piece, the most frequent first; then the start of both."""
    (beside, beside_start), (within, within_start) = envoy, builtin
    both = [name for name, _ in (beside + within).most_common() if name in beside and name in within]
    only_beside = [name for name, _ in beside.most_common() if name not in within]
    only_within = [name for name, _ in within.most_common() if name not in beside]
    steady = both + only_beside + only_within
    return steady, (beside_start | within_start).difference(steady)


def ran(path):
    """The functions that a profile counts instructions of; callgrind names each where it meets it first."""
    names, seen = {}, set()
    with open(path, errors="replace") as lines:
        for line in lines:
            found = re.match(r"(c?fn)=\((\d+)\)(?: (.*))?$", line)
            if found:
                kind, number, name = found.groups()
                if name:
                    names[number] = re.sub(r"'\d+$", "", name)
                if kind == "fn":
                    seen.add(number)
    return {names[number] for number in seen if number in names}


def symbols(agent):
    listing = subprocess.run(["nm", agent], check=True, capture_output=True, text=True).stdout
    fields = (line.split() for line in listing.splitlines())
    return {field[2] for field in fields if len(field) == 3 and field[1] in "tTwW"}


if __name__ == "__main__":
    main()
