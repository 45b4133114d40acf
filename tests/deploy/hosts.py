"""Hosts of a test's own: network namespaces on bridges, as containers and pods are."""

import itertools
import os
import shutil
import subprocess
from contextlib import ExitStack, contextmanager

NUMBERS = itertools.count(1)


def can_make_hosts():
    """Whether this process may make namespaces, bridges and packet filters."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    made = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "name", "b", "type", "bridge"],
        capture_output=True,
        check=False,
    )
    return made.returncode == 0


def ip(*arguments, check=True):
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


class Hosts:
    """Namespaces by name, and the address of each on every network that it is on."""

    def __init__(self):
        self.prefix = f"t{os.getpid()}-"
        self.addresses = {}

    def namespace(self, host):
        return f"{self.prefix}{host}"

    def address(self, host, network=None):
        """Of a host on a network; on its only one by default."""
        found = self.addresses[host]
        return found[network] if network else next(iter(found.values()))

    def command(self, host, *command):
        """The command, to be run on that host."""
        return ["ip", "netns", "exec", self.namespace(host), *command]

    def run(self, host, *command, **options):
        """Runs it there, to its end."""
        return subprocess.run(
            self.command(host, *command), capture_output=True, text=True, check=False, **options
        )


@contextmanager
def hosts_on(networks):
    """Makes hosts that reach each other where they share a network, and nowhere else.

    Args:
        networks: Names of hosts, by network.
    """
    hosts = Hosts()
    with ExitStack() as made:
        for host in sorted({host for members in networks.values() for host in members}):
            ip("netns", "add", hosts.namespace(host))
            made.callback(ip, "netns", "del", hosts.namespace(host), check=False)
            ip("-n", hosts.namespace(host), "link", "set", "lo", "up")
        # The bridges lie in a namespace too: nothing of it touches this machine's own network.
        switches = hosts.namespace("switches")
        ip("netns", "add", switches)
        made.callback(ip, "netns", "del", switches, check=False)
        for subnet, (network, members) in enumerate(networks.items()):
            bridge = f"br{subnet}"
            ip("-n", switches, "link", "add", "name", bridge, "type", "bridge")
            ip("-n", switches, "link", "set", bridge, "up")
            for number, host in enumerate(sorted(members), 2):
                connect(hosts, host, network, bridge, f"10.77.{subnet}.{number}")
        yield hosts


def connect(hosts, host, network, bridge, address):
    """Puts a host on a bridge."""
    inside, outside = f"e{next(NUMBERS)}", f"v{next(NUMBERS)}"
    namespace, switches = hosts.namespace(host), hosts.namespace("switches")
    ip(
        "link",
        "add",
        inside,
        "netns",
        namespace,
        "type",
        "veth",
        "peer",
        outside,
        "netns",
        switches,
    )
    ip("-n", switches, "link", "set", outside, "master", bridge, "up")
    ip("-n", namespace, "address", "add", f"{address}/24", "dev", inside)
    ip("-n", namespace, "link", "set", inside, "up")
    hosts.addresses.setdefault(host, {})[network] = address
