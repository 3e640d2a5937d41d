"""Files that applications store, and batches: many calls in one file, made as durable work in the lowest band."""
