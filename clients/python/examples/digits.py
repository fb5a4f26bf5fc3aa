"""Takes part in a training on handwritten digits, with a share of them:

    python digits.py --name ann --share 1/3

The parts between the lines of %% are a notebook's cells.
"""

# %% What this client is, and where the training runs
import argparse
import gzip
import math
from pathlib import Path

import numpy as np

from penstock import LocalPrivacy, Training

here = Path(__file__).resolve().parent if "__file__" in globals() else Path.cwd()
flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
flags.add_argument("--training", default="digits")
flags.add_argument("--name", default="ann")
flags.add_argument("--share", default="1/3", metavar="I/N")
flags.add_argument("--broker", default="embedded:./penstock-data")
flags.add_argument("--registry", metavar="URL")
flags.add_argument("--keep", metavar="FOLDER", help="where the last update is kept")
flags.add_argument("--compress", metavar="fp16|int8|top:SHARE")
flags.add_argument("--key", metavar="FILE", help="sign updates with this key")
flags.add_argument("--piece", type=int, default=512 << 10, metavar="BYTES", help="of numbers in a record")
flags.add_argument("--secure", metavar="FOLDER", help="take part in secure aggregation with the keys in this folder")
flags.add_argument("--clip-norm", type=float, metavar="NORM", help="clip each update to this distance from the model, and add noise to it before it is sent")
flags.add_argument("--noise", type=float, metavar="Z", help="the deviation of the noise, in distances")
flags.add_argument("--epsilon", type=float, metavar="E", help="stop before more than this is spent")
flags.add_argument("--delta", type=float, default=1e-5, metavar="D", help="the delta of that")
flags.add_argument("--ledger", metavar="FILE", help="where the updates that had noise are counted, over all trainings")
flags.add_argument("--data", type=Path, default=here / "../../../schemas/samples/data/digits.csv.gz")
args, _ = flags.parse_known_args()  # a notebook has arguments of its own
privacy = [args.clip_norm, args.noise, args.ledger]
if None in privacy and any(value is not None for value in [*privacy, args.epsilon]):
    flags.error("expected --clip-norm, --noise and --ledger together")
if args.secure and args.ledger:
    flags.error("--secure does not go with --clip-norm and --noise, which the aggregator says")

# %% Its examples: 64 grey values each, and what was meant
with gzip.open(args.data, "rt") as file:
    table = np.loadtxt(file, delimiter=",", dtype=np.float32)
share, shares = map(int, args.share.split("/"))
table = table[np.arange(len(table)) // 10 % 5 > 0]  # the rest is for tests
x = table[share - 1 :: shares, :64] / 16
y = table[share - 1 :: shares, 64].astype(int)


# %% How it trains: a softmax classifier, by gradient descent on the cross-entropy
def scores(parameters, x):
    return x @ parameters["weight"].T + parameters["bias"]


def cross_entropy(parameters):
    s = scores(parameters, x)
    s -= s.max(axis=1, keepdims=True)
    return float((np.log(np.exp(s).sum(axis=1)) - s[np.arange(len(x)), y]).mean())


def train(model, epochs=10, batch=10, rate=np.float32(0.3)):
    p = {name: array.copy() for name, array in model.parameters.items()}
    loss, steps = cross_entropy(p), 0
    order = np.random.default_rng(model.round)
    for _ in range(epochs):
        for rows in np.array_split(order.permutation(len(x)), len(x) // batch):
            steps += 1
            s = scores(p, x[rows])
            e = np.exp(s - s.max(axis=1, keepdims=True))
            e /= e.sum(axis=1, keepdims=True)
            e[np.arange(len(rows)), y[rows]] -= 1
            p["weight"] -= rate / len(rows) * (e.T @ x[rows])
            p["bias"] -= rate / len(rows) * e.sum(axis=0)
    print(f"round {model.round} of {model.rounds}: trained on {len(x)} examples", flush=True)
    return p, len(x), {"loss": loss, "steps": steps}


# %% Take part until the training ends
if args.secure:
    from penstock.secure import SecureTraining

    part = SecureTraining(args.training, args.name, args.secure, args.broker, args.registry, note=print)
else:
    private = LocalPrivacy(args.clip_norm, args.noise, args.ledger, math.inf if args.epsilon is None else args.epsilon, args.delta) if args.ledger else None
    part = Training(args.training, args.name, args.broker, args.registry, keep=args.keep, compress=args.compress, key=args.key, piece=args.piece, privacy=private)
with part as training:
    model = training.run(train)
if args.ledger:
    print(f"epsilon {private.spent:.4g} spent at delta {args.delta:g}")
right = (scores(model.parameters, x).argmax(axis=1) == y).mean()
print(f"the final model, {model.hash.hex()[:32]}, is right about {right:.3f} of the examples here")
