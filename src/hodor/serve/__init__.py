"""`hodor serve`: sessions over HTTP. See docs/serve.md."""
