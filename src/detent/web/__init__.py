"""The console: pages rendered on the server, each a URL with a `.json` twin."""
