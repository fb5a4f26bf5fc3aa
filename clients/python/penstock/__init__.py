"""Take part in federated trainings over Penstock: receive a model, train it on
examples of your own, publish what became of it.

    from penstock import Training

    with Training("digits", name="ann", broker="nats://127.0.0.1:4222",
                  registry="http://127.0.0.1:8081") as training:
        result = training.run(train)

where train takes a Model and returns its parameters after training, a dict of
numpy arrays by name, and the number of examples; and if it likes {"loss": …, "steps": …}.
"""

from .federated import Model, Refused, Training, Update
from .private import LocalPrivacy, Spent

__all__ = ["LocalPrivacy", "Model", "Refused", "Spent", "Training", "Update"]
