"""Flower clients of a training on handwritten digits, which know nothing of Penstock,
and what takes part with one of them:

    python flower_digits.py --name ann --share 1/2

With --compare FILE it trains both shares by Flower's FedAvg, and says how far its
result is from the model that penstock federated export wrote to FILE.npz.
"""

import argparse
import gzip
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp

DATA = Path(__file__).resolve().parents[3] / "schemas/samples/data/digits.csv.gz"


def examples(share, shares):
    with gzip.open(DATA, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    table = table[np.arange(len(table)) // 10 % 5 > 0][share - 1 :: shares]  # the rest is for tests
    return table[:, :64] / 16, table[:, 64].astype(int)


def fit(weight, bias, x, y, seed, rate=np.float32(0.3)):
    weight, bias = weight.copy(), bias.copy()
    s = x @ weight.T + bias
    loss = float((np.log(np.exp(s).sum(axis=1)) - s[np.arange(len(x)), y]).mean())
    order = np.random.default_rng(seed)
    for _ in range(5):
        for rows in np.array_split(order.permutation(len(x)), len(x) // 10):
            s = x[rows] @ weight.T + bias
            e = np.exp(s - s.max(axis=1, keepdims=True))
            e /= e.sum(axis=1, keepdims=True)
            e[np.arange(len(rows)), y[rows]] -= 1
            weight -= rate / len(rows) * (e.T @ x[rows])
            bias -= rate / len(rows) * e.sum(axis=0)
    return [weight, bias], loss


class Digits(NumPyClient):
    """The first of two shares, by Flower's classic interface."""

    def fit(self, parameters, config):
        x, y = examples(1, 2)
        parameters, loss = fit(*parameters, x, y, config["server-round"])
        return parameters, len(x), {"loss": loss}


app = ClientApp()


@app.train()
def train(message, context):
    """The second share, by Flower's messages."""
    x, y = examples(2, 2)
    parameters = message.content["arrays"].to_numpy_ndarrays()
    parameters, loss = fit(*parameters, x, y, message.content["config"]["server-round"])
    metrics = MetricRecord({"num-examples": len(x), "train_loss": loss})
    return Message(RecordDict({"arrays": ArrayRecord(parameters), "metrics": metrics}), reply_to=message)


def compare(file, rounds):
    """Flower's own FedAvg over the two clients, called one after the other."""
    from flwr.app import Array, ConfigRecord, Context
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import FedAvg
    from flwr.supercore.task_identity import TaskIdentity
    from penstock.flower import request, result

    class InProcess(Grid):
        run, set_run, create_message, push_messages, pull_messages = [None] * 5

        def get_node_ids(self):
            return [1, 2]

        def send_and_receive(self, messages, *, timeout=None):
            for m in messages:
                yield answer(m)

    def client_fn(context: Context):
        return Digits().to_client()

    classic = ClientApp(client_fn=client_fn)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})

    def answer(m):
        if m.metadata.dst_node_id == 2:
            return app(m, context)
        model = SimpleNamespace(parameters={name: a.numpy() for name, a in m.content["arrays"].items()})
        reply = classic(request(model, dict(m.content["config"])), context)
        parameters, samples, said = result(model, reply.content)
        arrays = ArrayRecord({name: Array(a) for name, a in parameters.items()})
        metrics = MetricRecord({"num-examples": samples, "train_loss": said["loss"]})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=m)

    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # as Flower's server sets them
    initial = ArrayRecord([np.zeros((10, 64), np.float32), np.zeros(10, np.float32)])
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=2, weighted_by_key="num-examples")
    flower = strategy.start(InProcess(), initial, num_rounds=rounds, train_config=ConfigRecord({})).arrays
    with np.load(file) as ours:
        apart = max(np.abs(ours[name] - a).max() for name, a in zip(("weight", "bias"), flower.to_numpy_ndarrays(), strict=True))
    print(f"the largest difference from Flower's FedAvg is {apart:.2g}")
    return 0 if apart <= 1e-6 else 1


def main():
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--name")
    flags.add_argument("--share", default="1/2", choices=["1/2", "2/2"])
    flags.add_argument("--training", default="flower")
    flags.add_argument("--broker", default="embedded:./penstock-data")
    flags.add_argument("--registry")
    flags.add_argument("--compare", metavar="FILE")
    flags.add_argument("--rounds", type=int, default=3)
    args = flags.parse_args()
    if args.compare:
        return compare(args.compare, args.rounds)

    from penstock import Training
    from penstock.flower import run

    with Training(args.training, args.name, args.broker, args.registry) as training:
        model = run(training, Digits() if args.share == "1/2" else app)
    print(f"the final model is {model.hash.hex()[:32]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
