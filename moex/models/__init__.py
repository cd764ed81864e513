"""Everything that depends on transformers: loading, conversion, routers, the experts interface."""
