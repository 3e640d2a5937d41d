"""Every fact kind and view of the product: what the ledger is opened with, and what a copy of it is verified with."""

from __future__ import annotations

from detent.gateway import facts as gateway_facts
from detent.gateway import views as gateway_views
from detent.gateway.batches import facts as batches_facts
from detent.gateway.batches import views as batches_views
from detent.governance import facts as governance_facts
from detent.governance import views as governance_views
from detent.kernel.facts import FactCatalog


def catalog() -> FactCatalog:
    """The product's facts and views."""
    return FactCatalog(
        bodies=(*gateway_facts.FACTS, *batches_facts.FACTS, *governance_facts.FACTS),
        views=(*gateway_views.VIEWS, *batches_views.VIEWS, *governance_views.VIEWS),
    )
