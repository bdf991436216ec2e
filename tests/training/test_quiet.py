"""A script of the user's own, which doesn't go through the commands: what it prints, and how it ends."""

import os
import re
import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import logging, os, signal, sys
logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
from absl import logging as absl_logging
from score_jax.training import Every
from tests.training import tiny

def run(workdir, steps, *signals):
    def call(state, step):
        for number in signals if step == 20 else ():
            os.kill(os.getpid(), number)

    return tiny.run(workdir, steps, progress=True, periodic=[Every(5, call)])

run(sys.argv[1], 20)
run(sys.argv[1], 30)
absl_logging.info("a line of the user's")
logging.getLogger("asyncio").error("an error of the user's")
(__import__("pathlib").Path(sys.argv[1]) / "checkpoints" / "30" / "run" / "metadata").write_text("[1]")
run(sys.argv[1], 40)
for number in range(3):  # a loop of trainings
    run(f"{sys.argv[1]}-{number}", 40, signal.SIGTERM)
"""


def test_a_script_shows_no_chatter_of_orbax_and_ends_by_the_signal(tmp_path):
    root, workdir = Path(__file__).parents[2], tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, workdir], cwd=root, env=os.environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 143 and [f.name for f in sorted(tmp_path.iterdir())] == ["run", "run-0"]
    assert done.stdout == "" and "\r" not in done.stderr
    # The speed and the time left, and JAX's own lines, are not the same each time.
    shown = re.sub(r"loss \S+, \d+ examples/s, \S+ left", "…", done.stderr)
    lines = [line for line in shown.splitlines() if not line.startswith("jax.")]
    damaged = f"checkpoint {workdir}/checkpoints/30 (run/metadata is missing or damaged) is damaged and passed over"
    assert lines == [
        "step 10/20, …",
        "step 20/20, …",
        f"score_jax.training.loop: going on from step 20 of {workdir}",
        "step 30/30, …",
        "absl: a line of the user's",
        "asyncio: an error of the user's",
        f"score_jax.training.checkpoint: {damaged}",
        f"score_jax.training.loop: going on from step 20 of {workdir}",
        "step 30/40, …",
        "step 40/40, …",
        "step 10/40, …",
        "step 20/40, …",
        "score_jax.training.signals: stopped by SIGTERM at step 25; the same command goes on from there",
    ]
