"""Tools for the tests of those who build on Detent: a scripted model, a temporary platform, a fixed clock and ids.

from detent.testing import ScriptedModel, temporary_platform

def test_my_agent():
    with ScriptedModel(["Lyon."]) as model:
        answer = my_agent(base_url=model.url)
        assert model.calls[0]["messages"][-1]["content"] == "Where is it?"
"""

from __future__ import annotations

from detent.kernel.clock import FixedClock
from detent.kernel.ids import CountedIds
from detent.testing.platform import temporary_platform
from detent.testing.scripted import Fault, ScriptedModel

__all__ = ["CountedIds", "Fault", "FixedClock", "ScriptedModel", "temporary_platform"]
