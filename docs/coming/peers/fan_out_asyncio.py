import asyncio


async def fetch(page):
    await asyncio.sleep(page / 10)
    if page == 3:
        raise ConnectionError("page 3 is gone")
    return page * 10


async def main():
    limit = asyncio.Semaphore(4)

    async def bounded(page):
        async with limit:
            return await fetch(page)

    tasks = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(bounded(page)) for page in range(8)]
    except* ConnectionError as errors:
        print("failed:", *errors.exceptions)
    ended = [task for task in tasks if not task.cancelled()]
    print("results:", [task.result() for task in ended if task.exception() is None])
    print("cancelled:", [page for page, task in enumerate(tasks) if task.cancelled()])


asyncio.run(main())
