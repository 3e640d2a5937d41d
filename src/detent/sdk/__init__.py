"""The SDK: `detent.Client` and `@detent.trace`; standard library and kernel only, no-op when unconfigured."""
