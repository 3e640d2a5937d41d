"""Descriptions of engines, as a supervisor reads them."""

from __future__ import annotations

import pytest

from detent.kernel.errors import InvalidInput
from detent.serving.engines.tiny import TinyKind
from detent.serving.engines.tiny.runtime import DATA, Llama
from detent.serving.model import Engine
from detent.serving.ports import EngineKind


def test_the_embedded_engine_as_a_supervisor_starts_it() -> None:
    kind: EngineKind = TinyKind()
    engine = kind.describe({})
    assert engine.arguments(port=7402, fd=5) == ("-m", "detent.serving.engines.tiny", "--port", "7402", "--fd", "5")
    assert engine.url(7402) == "http://127.0.0.1:7402/v1"
    assert engine.health_url(7402) == "http://127.0.0.1:7402/healthz"
    assert engine.environment["OPENBLAS_NUM_THREADS"] == "1"
    assert [model.name for model in engine.models] == ["detent-tiny"]
    assert engine.models[0].context == Llama.load(DATA).shape.context


def test_options_become_arguments_and_adapters_models() -> None:
    engine = TinyKind().describe({"pace": "5", "adapter:polite": "lora"})
    assert engine.command[-4:] == ("--pace", "5", "--adapter", "polite=lora")
    assert engine.models[1].base == "detent-tiny"


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(InvalidInput):
        TinyKind().describe({"gpu": "1"})


def test_an_engine_that_is_only_connected_to_has_no_command() -> None:
    assert Engine(name="vllm", health="/health").arguments(port=1) == ()
