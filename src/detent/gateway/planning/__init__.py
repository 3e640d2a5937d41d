"""The configuration as one document: read it, write it, compare two of them, try one on recorded traffic, apply it."""
