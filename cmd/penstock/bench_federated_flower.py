"""Times rounds of Flower's FedAvg over replies that have arrived, one for each line of its input."""

import sys, time, logging
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

logging.disable(logging.CRITICAL)
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
updates, parameters, tensors = map(int, sys.argv[1:])
replies = []
for k in range(updates):
    at = np.arange(parameters) % 1013
    values = at.astype(np.float32) / np.float32(1013) - np.float32(0.5)
    arrays = {str(i): Array(values[parameters * i // tensors : parameters * (i + 1) // tensors]) for i in range(tensors)}
    ask = Message(RecordDict(), dst_node_id=k + 1, message_type="train")
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": k + 1})})
    replies.append(Message(content, reply_to=ask))
print("ready", flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    arrays, _ = FedAvg().aggregate_train(1, replies)
    took = time.perf_counter() - began
    print(took, arrays["0"].numpy()[0], flush=True)
