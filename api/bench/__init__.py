"""What `tokenglass bench` does; `api.commands.bench` is the command. BENCHMARKS.md says how to read it."""
