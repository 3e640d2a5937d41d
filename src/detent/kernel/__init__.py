"""The kernel: what every room may know. Ids, clock, errors, references, facts, settings, chat types and the ports."""
