"""Seeing what happens: the tracer, attrs drawn, the simulated kernel, the doctor."""
