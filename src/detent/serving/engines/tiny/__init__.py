"""detent-tiny: a small language model of our own, so that Detent works with no account and no download.

A Llama of half a million parameters that reads messages to a shop's support, trained from nothing by `train` on what
`domain` makes, run by numpy alone. `data` holds the model as any model folder does, and its card.
"""

from __future__ import annotations

from collections.abc import Mapping

from detent.kernel.errors import InvalidInput
from detent.serving.model import DESCRIPTOR, PORT, Engine, ServedModel

NAME = "detent-tiny"
CONTEXT = 2048
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class TinyKind:
    """The embedded engine as the supervisor starts it."""

    def describe(self, options: Mapping[str, str]) -> Engine:
        """Options: `model` (a model folder), `pace` (milliseconds between tokens), `adapter:NAME` (a LoRA's folder)."""
        command = ["-m", "detent.serving.engines.tiny", "--port", PORT, "--fd", DESCRIPTOR]
        models = [ServedModel(name=NAME, context=CONTEXT)]
        for key, value in options.items():
            kind, _, name = key.partition(":")
            if key in {"model", "pace"}:
                command += [f"--{key}", value]
            elif kind == "adapter" and name:
                command += ["--adapter", f"{name}={value}"]
                models.append(ServedModel(name=name, context=CONTEXT, base=NAME))
            else:
                raise InvalidInput(
                    f"detent-tiny has no option {key!r}.", hint="Use model, pace or adapter:NAME.", field=key
                )
        return Engine(
            name=NAME, command=tuple(command), environment=_ONE_THREAD, takes_socket=True, models=tuple(models)
        )
