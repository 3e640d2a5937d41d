"""Shared counters for several gateway hosts, on PostgreSQL or Redis.

Found by the gateway through the entry-point group `detent.quotas`, by the scheme of `gateway.quotas_url`.
"""
