"""The engine: contract types, scheduler, worker process and its client side.

Nothing here knows about sockets, databases or windows. `llama_cpp` is imported by
`engine.backends.llamacpp` alone, and that package only in the worker process.
"""
