"""Adapters of the storage ports: ledger, lake, blobs, accounts, secrets, jobs. Reachable only from `app`."""
