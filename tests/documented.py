"""The commands of the documentation: every fenced block of a shell, and what it calls.

`tests/test_commands.py` runs the blocks with recorders in the place of programs, and holds what
they call to the real command lines; `tests/e2e/test_serve.py` sends what asks a service to one.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Programs that are called in a block and are not ours: why no test runs them.
NOT_RUN = {
    "docker": "needs a daemon; tests/deploy hold the recipe and the compose file to the settings",
    "helm": "needs a cluster; tests/deploy render and check the chart where it can be had",
    "kubectl": "needs a cluster; the same",
    "ollama": "fetches models; its protocol is played in tests/service/test_servers.py",
    "open-webui": "a client of a gigabyte; the service's side is tests/service/test_servers.py",
    "pip": "the index; make serve and make try-wheel install the same in earnest",
    "pre-commit": "installs itself into the checkout's hooks",
    "python3": "makes an environment; make try-wheel does so in earnest",
    "ray": "starts a cluster; tests/deploy/test_ray.py does so where the extra is installed",
    "serve": "Ray's, on that cluster; the same",
    "vllm": "needs a GPU; its protocol is played in tests/service/test_servers.py",
    "kill": "what the signal does is tested in tests/faults/test_reload.py",
}
# Programs that are called for real: what they do stays in the folder that the block runs in.
OURS = ("codefend", "codefend-lab", "make", "python")

_FENCED = re.compile(r"^```(?:sh|bash|shell|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_RECORDER = """#!{python} -IS
import json, os, sys
line = [os.path.basename(sys.argv[0]), sys.argv[1:], dict(os.environ)]
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps(line) + "\\n")
"""


@dataclass(frozen=True)
class Block:
    """One fenced block of a shell.

    Attributes:
        page: Where it stands, from the repository's root.
        number: Its place among the page's.
        code: What a reader pastes.
        before: The exports of the blocks above it, which hold in the same shell.
    """

    page: str
    number: int
    code: str
    before: str

    @property
    def asks(self):
        """Whether it sends requests to a service that runs."""
        return "curl" in self.code

    def __str__(self):
        return f"{self.page}[{self.number}]"


@dataclass(frozen=True)
class Call:
    """One program that a block called."""

    program: str
    arguments: list
    environment: dict


def shell_blocks():
    """Every block of the tracked pages, and of those that are about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [
        block for page in listed.split() if (ROOT / page).exists() for block in _blocks_of(page)
    ]


def _blocks_of(page):
    before = ""
    for number, code in enumerate(_FENCED.findall((ROOT / page).read_text())):
        yield Block(page, number, code, before)
        before += "".join(line for line in code.splitlines(True) if line.startswith("export "))


def calls_of(block, folder):
    """Runs a block with a recorder in the place of every program that is listed above.

    Args:
        block: What to run; it must end with 0.
        folder: An empty one, to run it in.
    """
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text("")
    for name in (*OURS, *NOT_RUN):
        (programs / name).write_text(_RECORDER.format(python=sys.executable))
        (programs / name).chmod(0o755)
    record = folder / "calls.jsonl"
    record.touch()
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder),
        "RECORD": str(record),
    }
    # A builtin comes before the path.
    code = f'kill() {{ command env kill "$@"; }}\n{block.before}{block.code}'
    code = code.replace("command env kill", str(programs / "kill"))
    done = subprocess.run(
        ["bash", "-e", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}: {done.stderr}"
    assert not done.stderr, f"{block}: {done.stderr}"
    return [Call(*json.loads(line)) for line in record.read_text().splitlines()]
