"""A small /dev/shm under a service that is asked for more: nobody dies, and nobody is cut off."""

import asyncio

from benchmarks.family import find_family
from benchmarks.server import run_server
from tests.service.fake_engine import IMPORT_PATH
from tests.service.pictures import png
from tests.sieges.clients import Tally, as_picture, connect, send_until

# A mount of its own: the rest of the machine sees nothing of it. Needs the superuser.
MOUNT = 'mount -t tmpfs -o size={} tmpfs /dev/shm && exec "$@"'
CACHE_BYTES = str(1 << 30)


def besiege(size, side_px, num_clients, seconds, *, fresh_share):
    """Sends pictures that are known, and in part pictures that are not.

    Args:
        size: Of /dev/shm, as mount takes it.
        side_px: Of the square pictures.
        num_clients: Connections.
        seconds: How long.
        fresh_share: Of every n clients one sends pictures that nobody has sent; 0 for none.
    """
    prefix = ("unshare", "-m", "sh", "-c", MOUNT.format(size), "sh")
    # Memory alone is at stake: an engine without weights leaves the processors to the rest.
    settings = {"engine": IMPORT_PATH, "purifier": "{}", "cache_bytes": CACHE_BYTES}
    with run_server(None, prefix, **settings) as server:
        before = find_family(server.pid)
        known = png(side_px, side_px)

        async def play():
            tally, ends = Tally(), asyncio.Event()
            async with connect(server.url) as client:
                first = await client.request(**as_picture(known))
                assert first.status_code == 200, first.text

                def of(index):
                    is_fresh = fresh_share and index % fresh_share == 0
                    return lambda number: as_picture(
                        png(side_px, side_px, seed=1000 * index + number + 1) if is_fresh else known
                    )

                sending = [send_until(ends, client, tally, of(i)) for i in range(num_clients)]
                asyncio.get_running_loop().call_later(seconds, ends.set)
                await asyncio.gather(*sending)
            return tally

        tally = asyncio.run(play())
        lost = before - find_family(server.pid)
    return {"shm": size, "clients": num_clients, "side_px": side_px, **tally.told()} | {
        "processes": len(before),
        "processes_lost": len(lost),
    }


def run(seconds=30):
    yield besiege("24m", 1024, 8, seconds, fresh_share=4)
    yield besiege("24m", 1900, 4, seconds, fresh_share=0)
    yield besiege("2g", 3000, 40, 2 * seconds, fresh_share=0)
