"""Inference libraries behind `engine.backend.Backend`; each module's `load` is an `engine.backend.Loader`."""
