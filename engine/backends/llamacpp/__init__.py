"""llama.cpp through the low-level API of llama-cpp-python: the only package that imports it.

Imported in the worker process alone, since importing it loads native libraries.
"""

from engine.backends.llamacpp.backend import LlamaBackend
from engine.backends.llamacpp.library import lib
from engine.backends.llamacpp.loading import load
from engine.backends.llamacpp.sampler import LlamaSampler

__all__ = ["LlamaBackend", "LlamaSampler", "lib", "load"]
