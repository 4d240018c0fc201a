"""A nightly batch that survives: it is killed half-way, runs again, and makes only the calls that are missing.

Run it: `pip install httpx2 starlette "hypercorn[trio]"`, `python examples/cookbook/nightly.py`
"""

import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import trio
from servers import Models, open_server

from trioflow import CheckpointConfig, ParallelConfig, ParallelResult, RetryConfig, current_run, process_parallel
from trioflow.checkpoint.sqlite import SqliteStore

TICKETS = [f"ticket {number}" for number in range(60)]


async def batch(url: str, path: str) -> ParallelResult[str, str]:
    """The batch itself: the same call every time, whether it begins or goes on."""
    async with httpx2.AsyncClient(base_url=url, trust_env=False) as client, SqliteStore(path) as store:

        async def triage(ticket: str) -> str:
            body = {"model": "small", "messages": [{"role": "user", "content": ticket}]}
            headers = {"Idempotency-Key": current_run().key}  # the same one each time that this ticket is tried
            answer = await client.post("/v1/chat/completions", json=body, headers=headers)
            return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])

        kept = CheckpointConfig(preserve=True)  # so that what is complete can be read; else it is forgotten
        config = ParallelConfig(
            max_workers=4, fail_fast=False, retry=RetryConfig(initial_delay=0.01), checkpoint=kept, observer="noop"
        )
        return await process_parallel(TICKETS, triage, config=config, store=store, run_id="2026-12-01", key=str)


async def count_saved(path: str) -> int:
    if not await trio.Path(path).exists():
        return 0
    async with SqliteStore(path, read_only=True) as store:
        return sum(run.items for run in await store.list_runs())


async def run_child(url: str, path: str, models: Models, *, kill_after: int | None = None) -> None:
    command = [sys.executable, __file__, url, path]
    async with trio.open_nursery() as nursery:
        child: trio.Process = await nursery.start(partial(trio.run_process, command, check=False))
        while kill_after is not None and child.returncode is None:
            await trio.sleep(0.01)
            if len(models.texts) >= kill_after:
                child.kill()  # SIGKILL: nothing in the child hears of it
                break


async def main() -> None:
    models = Models({"ticket 7": [503], "ticket 50": [400] * 3}, latency=0.05)
    with TemporaryDirectory() as folder:
        path = str(Path(folder, "runs.db"))
        async with open_server(models.app) as url:
            await run_child(url, path, models, kill_after=len(TICKETS) // 2)
            asked, saved = len(models.texts), await count_saved(path)
            print(f"killed after {asked} requests: {saved} answers are saved", flush=True)
            await run_child(url, path, models)
        again = len(models.keys) - len(set(models.keys))
        more, saved = len(models.texts) - asked, await count_saved(path)
        print(f"{more} more requests, {saved} of {len(TICKETS)} are saved, {again} keys came twice")


if __name__ == "__main__":
    if sys.argv[1:]:
        print(trio.run(batch, sys.argv[1], sys.argv[2]))
    else:
        trio.run(main)
