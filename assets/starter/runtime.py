"""Runs the GGUF through llama.cpp, as the app does: template from the metadata, special pieces parsed."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import llama_cpp
from jinja2.sandbox import ImmutableSandboxedEnvironment
from llama_cpp import llama_cpp as low


def load_backends() -> None:
    """With plugins for backends nothing is loaded by itself; they lie in `bin` beside the package."""
    package = Path(llama_cpp.__file__).parent
    try:
        load = low._lib.ggml_backend_load_all_from_path
    except AttributeError:
        return
    load.argtypes, load.restype = [ctypes.c_char_p], None
    for folder in (package.parent / "bin", package / "lib"):
        if any(folder.glob("libggml-cpu-*")):
            load(str(folder).encode())
            return


class Starter:
    """A loaded model with its own template."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        load_backends()
        self.llm = llama_cpp.Llama(
            str(path), n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False
        )
        env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        env.policies["json.dumps_kwargs"] = {"sort_keys": False, "ensure_ascii": False}
        env.filters["tojson"] = lambda v: json.dumps(v, ensure_ascii=False)
        self.template = env.from_string(self.llm.metadata["tokenizer.chat_template"])

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        return self.template.render(
            messages=messages, tools=tools, add_generation_prompt=True, bos_token="<s>", eos_token="<|end|>"
        )

    def tokenize(self, text: str) -> list[int]:
        return self.llm.tokenize(text.encode(), add_bos=False, special=True)

    def answer(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        *,
        temperature: float = 0.0,
        max_tokens: int = 160,
        seed: int = 1,
    ) -> str:
        """The answer's text, without the token that ends it."""
        prompt = self.tokenize(self.render(messages, tools))
        out = self.llm.create_completion(
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=40,
            top_p=0.95,
            min_p=0.05,
            repeat_penalty=1.0,
            seed=seed,
        )
        return str(out["choices"][0]["text"])
