"""Runs the table of clients: `python -m tests.clients [CLIENT ...]`.

Without a name, all are run, and docs/clients.md is written. `--alone` asks the model without the
service before it, which tells the model's own mistakes from the service's; `--relock` pins the
newest versions first. Ends with 1 if a row does not work.
"""

import argparse
import base64
import json
import os
import secrets
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.rivals import UPSTREAM_KEY, run_litellm
from benchmarks.server import run_server
from tests.clients.environments import KEPT, NodeEnvironment, PythonEnvironment
from tests.clients.model import Model
from tests.clients.play import SCENARIOS
from tests.clients.table import PAGE, Row, page
from tests.service.canary import IMPORT_PATH, canary
from tests.service.fake_upstream import run_upstream
from tests.service.pictures import encode

SCRIPTS = Path(__file__).parent / "scripts"
CLIENT_KEY = "sk-of-a-client"
TIMEOUT_S = 600
NODE = "node@24"

ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        PythonEnvironment("openai-py", ("openai",)),
        NodeEnvironment("openai-npm", ("openai@7", NODE)),
        NodeEnvironment(
            "ai-sdk",
            (
                "ai@7",
                "@ai-sdk/openai@4",
                "@ai-sdk/openai-compatible@3",
                "@ai-sdk/anthropic@4",
                "zod@4",
                NODE,
            ),
        ),
        PythonEnvironment("langchain", ("langchain-openai", "langchain-anthropic")),
        PythonEnvironment("llama-index", ("llama-index-llms-openai",)),
        PythonEnvironment("pydantic-ai", ("pydantic-ai-slim[openai,anthropic]",)),
        PythonEnvironment("openai-agents", ("openai-agents",)),
        PythonEnvironment("instructor", ("instructor[anthropic]",)),
        PythonEnvironment("anthropic", ("anthropic",)),
        PythonEnvironment("litellm", ("litellm[proxy]",)),
    )
}


@dataclass(frozen=True)
class Client:
    """One of the table.

    Attributes:
        title: What it is called.
        scripts: What plays it, each in the environment of the same name.
        base_url: Where the service's address goes.
        package: Whose version is told.
        route: `before` or `behind`: where LiteLLM's proxy stands.
    """

    title: str
    scripts: tuple[str, ...]
    base_url: str
    package: str
    route: str = ""

    def environments(self):
        """What it needs."""
        return [
            ENVIRONMENTS[name] for name in (*self.scripts, *(["litellm"] if self.route else []))
        ]

    def version(self):
        """Of the package."""
        versions = {}
        for environment in self.environments():
            versions |= environment.versions()
        return versions[self.package]


V1 = "http://127.0.0.1:8000/v1"
CLIENTS = {
    "openai-py": Client("OpenAI, Python", ("openai-py",), f'`OpenAI(base_url="{V1}")`', "openai"),
    "openai-npm": Client(
        "OpenAI, JavaScript", ("openai-npm",), f'`new OpenAI({{ baseURL: "{V1}" }})`', "openai"
    ),
    "ai-sdk": Client(
        "Vercel AI SDK",
        ("ai-sdk",),
        f'`createOpenAI`, `createOpenAICompatible`, `createAnthropic({{ baseURL: "{V1}" }})`; '
        "the first speaks responses",
        "ai",
    ),
    "langchain": Client(
        "LangChain",
        ("langchain",),
        f'`ChatOpenAI(base_url="{V1}")`; `ChatAnthropic`\'s is without `/v1`',
        "langchain-openai",
    ),
    "llama-index": Client(
        "LlamaIndex",
        ("llama-index",),
        f'`OpenAI` and `OpenAIResponses(api_base="{V1}")`',
        "llama-index-llms-openai",
    ),
    "pydantic-ai": Client(
        "Pydantic AI",
        ("pydantic-ai",),
        f'`OpenAIProvider(base_url="{V1}")`; `AnthropicProvider`\'s is without `/v1`; '
        "`openai:…` speaks responses",
        "pydantic-ai-slim",
    ),
    "openai-agents": Client(
        "OpenAI Agents",
        ("openai-agents",),
        f'`set_default_openai_client(AsyncOpenAI(base_url="{V1}"))`; speaks responses by default',
        "openai-agents",
    ),
    "instructor": Client(
        "Instructor",
        ("instructor",),
        f'`from_openai(OpenAI(base_url="{V1}"))`; `Anthropic`\'s is without `/v1`',
        "instructor",
    ),
    "anthropic": Client(
        "Anthropic, Python",
        ("anthropic",),
        '`Anthropic(base_url="http://127.0.0.1:8000")`, without `/v1`',
        "anthropic",
    ),
    "litellm": Client(
        "LiteLLM, library",
        ("litellm",),
        f'`completion("openai/…", api_base="{V1}")`; with `anthropic/…` without `/v1`',
        "litellm",
    ),
    "litellm-before": Client(
        "LiteLLM's proxy before the service",
        ("openai-py", "anthropic"),
        f"`litellm_params: {{model: openai/…, api_base: {V1}}}`; with `anthropic/…` without `/v1`",
        "litellm",
        "before",
    ),
    "litellm-behind": Client(
        "LiteLLM's proxy behind the service",
        ("openai-py", "anthropic"),
        "`CODEFEND_UPSTREAM_URL` is the proxy's, with `/v1`",
        "litellm",
        "behind",
    ),
}


class Routes:
    """The processes between a client and the model, started when they are first needed."""

    models = ("openai/gpt-5-mini", "anthropic/claude-sonnet-5-5")

    def __init__(self, stack, upstream):
        """Takes the stack that ends them, and the model's server."""
        self.key = secrets.token_hex(16)
        self._stack = stack
        self._upstream = upstream
        self._log = stack.enter_context((KEPT / "service.log").open("wb"))

    def url_of(self, client, *, alone):
        """The address that a client is given, without `/v1`."""
        if alone:
            return self._upstream.url.removesuffix("/v1")
        routes = {"": "_service", "before": "_proxy_before", "behind": "_service_before_proxy"}
        return getattr(self, routes[client.route]).url

    @cached_property
    def _service(self):
        return self._serve(self._upstream.url)

    @cached_property
    def _proxy_before(self):
        return self._proxy(f"{self._service.url}/v1", CLIENT_KEY)

    @cached_property
    def _service_before_proxy(self):
        return self._serve(f"{self._proxy(self._upstream.url, UPSTREAM_KEY).url}/v1")

    def _serve(self, upstream_url):
        settings = {
            "engine": IMPORT_PATH,
            "purifier": json.dumps({"key": self.key}),
            "upstream_url": upstream_url,
            "upstream_key": UPSTREAM_KEY,
            "api_keys": f"{CLIENT_KEY},{UPSTREAM_KEY}",
            "decode_workers": "1",
            "encode_workers": "1",
            "log_level": "info",
        }
        return self._stack.enter_context(run_server(self._log.fileno(), **settings))

    def _proxy(self, upstream_url, key):
        command = str(ENVIRONMENTS["litellm"].command("litellm"))
        return self._stack.enter_context(run_litellm(command, upstream_url, key, self.models))


def play(client, routes, upstream, *, alone):
    """The rows of one client."""
    owner = 1 + [*CLIENTS.values()].index(client)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.png" for number in range(2)]
        for number, file in enumerate(files):
            file.write_bytes(encode(canary(owner, number)))
        originals = [base64.b64encode(file.read_bytes()).decode() for file in files]
        case = {
            "url": routes.url_of(client, alone=alone),
            "key": UPSTREAM_KEY if alone else CLIENT_KEY,
            "files": [str(file) for file in files],
            "is_guarded": not alone,
            "gateway": client.route,
        }
        for script in client.scripts:
            model = Model(UPSTREAM_KEY, None if alone else routes.key, owner, originals)
            upstream.reply = model
            for protocol, said in run_script(ENVIRONMENTS[script], case).items():
                outcome = (protocol, said["scenarios"], said["refused"], model.verdict())
                rows.append(Row(client.title, client.version(), *outcome))
    return rows


def run_script(environment, case):
    """What a client says of each of its rows."""
    (script,) = SCRIPTS.glob(f"{environment.name}.*")
    command = [environment.interpreter, environment.player, script, json.dumps(case)]
    if environment.player.suffix == ".mjs":
        command.append(environment.folder)
    done = subprocess.run(
        command,
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        wrong = {"wrong": done.stderr[-3000:]}
        return {"all": {"scenarios": dict.fromkeys(SCENARIOS, wrong), "refused": {}}}
    return json.loads(done.stdout.splitlines()[-1])


def tell(rows):
    """Prints what works and what does not; returns how many rows do not."""
    for row in rows:
        faults = row.faults()
        say("  ".join(row.cells()) + (f"   {len(faults)} wrong" if faults else ""))
        for what, wrong in faults.items():
            say(f"    {what}:\n      " + wrong.strip().replace("\n", "\n      "))
    return sum(bool(row.faults()) for row in rows)


def say(line):
    """Prints a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(CLIENTS))
    parser.add_argument("--alone", action="store_true", help="without the service")
    parser.add_argument("--relock", action="store_true", help="pin the newest versions first")
    given = parser.parse_args()
    chosen = [CLIENTS[name] for name in given.clients or CLIENTS]
    if given.alone:
        chosen = [client for client in chosen if not client.route]
    KEPT.mkdir(exist_ok=True)
    for environment in {e.name: e for client in chosen for e in client.environments()}.values():
        say(f"{environment.name} …")
        environment.relock() if given.relock else environment.make()
    num_wrong, rows = 0, []
    with ExitStack() as stack:
        upstream = stack.enter_context(run_upstream())
        routes = Routes(stack, upstream)
        for client in chosen:
            played = play(client, routes, upstream, alone=given.alone)
            num_wrong += tell(played)
            rows += played
    if not given.clients and not given.alone:
        PAGE.write_text(page(rows, {client.title: client.base_url for client in chosen}))
    sys.exit(num_wrong > 0)


if __name__ == "__main__":
    main()
