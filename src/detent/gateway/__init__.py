"""The gateway: keys, providers, routes and prices, and the data plane that serves calls from a snapshot of them."""
