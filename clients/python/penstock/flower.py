"""Flower clients over Penstock, as they are.

    from penstock import Training
    from penstock.flower import run

    with Training("digits", name="ann", ...) as training:
        run(training, app)

app is a NumPyClient or a Client, or a ClientApp: of a client_fn, or with
@app.train(). It is asked as Flower's server asks: by the model's arrays, under their
names where Flower has names, and a configuration, in which "server-round" counts
from 1. Its answer weighs by the number of examples, as in Flower's FedAvg; of its
metrics, what it calls loss or train_loss and steps goes along.
"""

import math
import time

from flwr.app import DEFAULT_TTL, Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, Metadata, RecordDict
from flwr.client import Client, NumPyClient
from flwr.clientapp import ClientApp


def run(training, app, config=None, node_config=None):
    """Answers each model with what app makes of it, and returns the final model.

    config(round) gives more of the configuration of a round, which counts from 1;
    node_config is that of the Context, where a ClientApp finds its "partition-id".
    """
    if isinstance(app, NumPyClient):
        app = app.to_client()
    if isinstance(app, Client):
        client = app

        def client_fn(context: Context):
            return client

        app = ClientApp(client_fn=client_fn)
    context = Context(run_id=1, node_id=1, node_config=node_config or {}, state=RecordDict(), run_config={})

    def train(model):
        number = model.round + 1
        about = {"server-round": number, **(config(number) if config else {})}
        answer = app(request(model, about), context)
        if answer.has_error():
            raise RuntimeError(f"the Flower client failed in round {number}: {answer.error}")
        return result(model, answer.content)

    return training.run(train)


def request(model, about):
    """The message that asks a client to train. Which records a client reads depends
    on how it was written: it finds both."""
    arrays = {name: Array(a.copy()) for name, a in model.parameters.items()}
    content = RecordDict(
        {
            "arrays": ArrayRecord(arrays),
            "config": ConfigRecord(about),
            "fitins.parameters": ArrayRecord([a.copy() for a in model.parameters.values()]),
            "fitins.config": ConfigRecord(about),
        }
    )
    number = str(about["server-round"])
    # The short form of a Message asks which of Flower's runs this process belongs to.
    metadata = Metadata(
        run_id=1, message_id=number, src_node_id=0, dst_node_id=1, reply_to_message_id="",
        group_id=number, created_at=time.time(), ttl=DEFAULT_TTL, message_type=MessageType.TRAIN,
    )
    return Message(content=content, metadata=metadata)


def result(model, content):
    """The parameters, the number of examples and the metrics of a client's answer."""
    records = content.array_records
    record = records.get("fitres.parameters") or next(iter(records.values()))
    if set(record) == set(model.parameters):
        parameters = {name: record[name].numpy() for name in model.parameters}
    else:
        parameters = dict(zip(model.parameters, record.to_numpy_ndarrays(), strict=True))
    said = {}
    for metrics in [*content.metric_records.values(), content.config_records.get("fitres.metrics", {})]:
        for name, value in metrics.items():
            said.setdefault(name.replace("-", "_"), value)
    if "num_examples" not in said:
        raise ValueError("expected num-examples among the metrics of the Flower client, found none")
    metrics = {"loss": said.get("loss", said.get("train_loss")), "steps": said.get("steps", said.get("num_steps"))}
    metrics = {name: value for name, value in metrics.items() if isinstance(value, (int, float)) and math.isfinite(value)}
    return parameters, int(said["num_examples"]), metrics
