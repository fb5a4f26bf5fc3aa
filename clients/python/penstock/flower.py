"""Flower clients over Penstock, as they are.

    from penstock import Training
    from penstock.flower import run

    with Training("digits", name="ann", ...) as training:
        run(training, app)

app is a NumPyClient or Client, or a ClientApp: of a client_fn, or with @app.train().
It gets what Flower's server would send: the arrays in the model's order, and a
configuration, in which "server-round" counts from 1. The aggregator weighs its
answer by the number of examples, as Flower's FedAvg does.
"""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.client import Client, NumPyClient
from flwr.clientapp import ClientApp


def run(training, app, config=None, node_config=None):
    """Answers each model with what app makes of it, and returns the final model.

    config(round) gives more of the configuration of a round; node_config is the
    Context's, where a ClientApp finds for example its "partition-id".
    """
    if isinstance(app, NumPyClient):
        app = app.to_client()
    if isinstance(app, Client):
        client = app
        app = ClientApp(client_fn=lambda context: client)
    context = Context(run_id=1, node_id=1, node_config=node_config or {}, state=RecordDict(), run_config={})

    def train(model):
        about = {"server-round": model.round + 1, **(config(model.round) if config else {})}
        answer = app(_request(app, model, about), context)
        if answer.has_error():
            raise RuntimeError(f"the Flower client failed in round {model.round}: {answer.error}")
        arrays, samples = _answer(answer.content)
        return dict(zip(model.parameters, arrays, strict=True)), samples

    return training.run(train)


def _request(app, model, about):
    # An app of a client_fn speaks of FitIns, by records of other names.
    legacy = app._call is not None
    names, into = ("fitins.parameters", "fitins.config") if legacy else ("arrays", "config")
    if legacy:
        arrays = ArrayRecord([a.copy() for a in model.parameters.values()])
    else:
        arrays = ArrayRecord.from_numpy_ndarrays([a.copy() for a in model.parameters.values()])
    content = RecordDict({names: arrays, into: ConfigRecord(about)})
    message = Message(content, dst_node_id=1, message_type=MessageType.TRAIN, group_id=str(model.round))
    message.metadata.__dict__["_run_id"] = 1
    return message


def _answer(content):
    legacy = "fitres.parameters" in content.array_records
    if legacy:
        number = content.metric_records["fitres.num_examples"]["num_examples"]
        return content.array_records["fitres.parameters"].to_numpy_ndarrays(), int(number)
    (arrays,) = content.array_records.values()
    (metrics,) = content.metric_records.values()
    if "num-examples" not in metrics:
        raise ValueError(f"expected num-examples among the metrics of the Flower client, found {sorted(metrics)}")
    return arrays.to_numpy_ndarrays(), int(metrics["num-examples"])
