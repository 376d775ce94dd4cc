"""The words of the starter model: generators of its conversations."""
