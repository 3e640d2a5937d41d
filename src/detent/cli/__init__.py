"""The command line: `detent <noun> <verb>`; stdout is data, stderr is talk."""
