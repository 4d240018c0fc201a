import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker


@activity.defn
async def draft(topic: str) -> str:
    return topic.title()


@workflow.defn
class Review:
    def __init__(self) -> None:
        self.approver: str | None = None

    @workflow.signal
    def approve(self, by: str) -> None:
        self.approver = by

    @workflow.run
    async def run(self, topic: str) -> str:
        limit = timedelta(minutes=1)
        text = await workflow.execute_activity(draft, topic, start_to_close_timeout=limit)
        await workflow.wait_condition(lambda: self.approver is not None)
        return f"{text}, approved by {self.approver}"


async def main() -> None:
    client = await Client.connect("localhost:7233")
    queue = "reviews"
    async with Worker(client, task_queue=queue, workflows=[Review], activities=[draft]):
        handle = await client.start_workflow(
            Review.run, "notes on trio", id="review-7", task_queue=queue
        )
        await handle.signal(Review.approve, "Ada")
        print("result:", await handle.result())


asyncio.run(main())
