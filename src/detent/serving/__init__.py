"""Serving: engines that Detent starts or connects to, the embedded model among them."""
