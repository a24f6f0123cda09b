"""Slow, untrusted work in replaceable child processes: the pool that callers see, its dispatcher, the child, and the
wire between them. Imports runtime and errors."""
