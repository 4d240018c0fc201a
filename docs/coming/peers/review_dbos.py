import sys

from dbos import DBOS, SetWorkflowID

database = f"sqlite:///{sys.argv[1]}"
DBOS(config={"name": "reviews", "system_database_url": database, "log_level": "ERROR"})


@DBOS.step()
def draft(topic):
    return topic.title()


@DBOS.step()
def publish(text, by):
    return f"{text}, approved by {by}"


@DBOS.workflow()
def review(topic):
    text = draft(topic)
    by = DBOS.recv("approval", timeout_seconds=60)
    return publish(text, by)


DBOS.launch()
with SetWorkflowID("review-7"):
    handle = DBOS.start_workflow(review, "notes on trio")
DBOS.send("review-7", "Ada", topic="approval")
print("result:", handle.get_result())
print("again:", DBOS.retrieve_workflow("review-7").get_result())
DBOS.destroy()
