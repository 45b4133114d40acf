"""An environment for each client, made from its lock, and kept until the lock changes."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
LOCKS = HERE / "locks"
KEPT = HERE.parents[1] / ".clients"


@dataclass(frozen=True)
class Environment:
    """Packages of one registry, pinned.

    Attributes:
        name: Of the lock, and of the folder.
        requirements: What is asked for; the first is what the table shows the version of.
    """

    name: str
    requirements: tuple[str, ...]

    @property
    def folder(self):
        """Where it is kept."""
        return KEPT / self.name

    def make(self):
        """Makes it, unless it was made from the same lock."""
        wanted = self.lock.read_text()
        made_from = self.folder / "made-from"
        if made_from.exists() and made_from.read_text() == wanted:
            return
        self._empty()
        self._install()
        made_from.write_text(wanted)

    def relock(self):
        """Takes what is newest, and pins that."""
        self._empty()
        self.lock.write_text(self._resolve())
        (self.folder / "made-from").write_text(self.lock.read_text())

    def _empty(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)


class PythonEnvironment(Environment):
    """A virtual environment; its lock is what `pip freeze` says."""

    player = HERE / "play.py"

    @property
    def lock(self):
        """The file."""
        return LOCKS / f"{self.name}.txt"

    def command(self, name):
        """The path of something that the packages bring."""
        return self.folder / "bin" / name

    @property
    def interpreter(self):
        """What runs scripts."""
        return self.command("python")

    def versions(self):
        """The version of each package."""
        lines = self.lock.read_text().splitlines()
        return dict(line.split("==") for line in lines if "==" in line)

    def _install(self):
        self._pip("install", "--no-deps", "--requirement", self.lock)

    def _resolve(self):
        self._pip("install", *self.requirements)
        return run(self.interpreter, "-m", "pip", "freeze", "--quiet")

    def _pip(self, *arguments):
        if not self.interpreter.exists():
            run(sys.executable, "-m", "venv", self.folder)
        options = ("--quiet", "--disable-pip-version-check")
        run(self.interpreter, "-m", "pip", *arguments, *options)


class NodeEnvironment(Environment):
    """A folder of node_modules with its own Node; its lock is npm's."""

    player = HERE / "play.mjs"

    @property
    def lock(self):
        """The file."""
        return LOCKS / f"{self.name}.json"

    @property
    def interpreter(self):
        """What runs scripts."""
        return self.folder / "node_modules" / "node" / "bin" / "node"

    def versions(self):
        """The version of each package."""
        packages = json.loads(self.lock.read_text())["packages"]
        named = {path.removeprefix("node_modules/"): entry for path, entry in packages.items()}
        return {name: entry["version"] for name, entry in named.items() if "version" in entry}

    def _install(self):
        lock = json.loads(self.lock.read_text())
        root = {"dependencies": lock["packages"][""]["dependencies"]}
        (self.folder / "package.json").write_text(json.dumps(root))
        shutil.copy(self.lock, self.folder / "package-lock.json")
        self._npm("ci")

    def _resolve(self):
        self._npm("install", "--save-exact", *self.requirements)
        return (self.folder / "package-lock.json").read_text()

    def _npm(self, *arguments):
        options = ("--silent", "--no-audit", "--no-fund", "--omit-lockfile-registry-resolved")
        run("npm", *arguments, *options, cwd=self.folder)


def run(*command, **options):
    """What a command prints; fails if it does."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} {command[1]} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout
