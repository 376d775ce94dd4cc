"""One generation's sampler: a chain of llama.cpp's samplers, its random state, and its grammar."""

from __future__ import annotations

import codecs
import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.backend import SamplerSpec
from engine.backends.llamacpp.candidates import Candidates, Ids, Logits, Single, likeliest
from engine.backends.llamacpp.library import lib
from engine.errors import TokenglassError
from engine.types import SamplingParams

PENALTY_LAST_N = 64
PRESELECT_FROM = 4096
"""From this vocabulary on it is faster to find the likeliest tokens first."""
_WIDER = (256, 4096)
_NEG_INF = float("-inf")


class Vocab:
    """What samplers share: what is to be known of the tokens, and room to work."""

    def __init__(self, pointer: Any) -> None:
        self.pointer = pointer
        self.n_tokens: int = lib.llama_vocab_n_tokens(pointer)
        self.candidates = Candidates(self.n_tokens)
        self.single = Single()
        self.control_texts: dict[int, bytes] = {}
        """The control tokens that don't end a generation, and their texts."""
        self._fragments: dict[int, bytes] = {}
        """The tokens that aren't whole characters, and their bytes."""
        self.beginnings = np.ones(self.n_tokens, np.bool_)
        """By token: whether it may stand where a character begins."""
        for token in range(self.n_tokens):
            self._look_at(token)

    def _look_at(self, token: int) -> None:
        piece = _piece(self.pointer, token)
        if lib.llama_vocab_is_control(self.pointer, token):
            if not lib.llama_vocab_is_eog(self.pointer, token):
                self.control_texts[token] = piece
        elif not piece.isascii() and (rest := _rest(piece)) != b"":
            self._fragments[token] = piece
            self.beginnings[token] = rest is not None

    def rest_after(self, rest: bytes, token: int) -> bytes:
        """The unfinished character after a token that may come after `rest`."""
        piece = self._fragments.get(token)
        return b"" if piece is None else _rest(rest + piece) or b""

    def continuations(self, rest: bytes) -> NDArray[np.bool_]:
        """By token: whether it goes on with the character of which `rest` is the beginning."""
        continues = np.zeros(self.n_tokens, np.bool_)
        for token, piece in self._fragments.items():
            continues[token] = _rest(rest + piece) is not None
        return continues


_buffer = ctypes.create_string_buffer(512)


def _piece(vocab: Any, token: int) -> bytes:
    """A token's bytes as a grammar sees them, those of control tokens too."""
    n = lib.llama_token_to_piece(vocab, token, _buffer, len(_buffer), 0, True)
    if n >= 0:
        return _buffer.raw[:n]
    longer = ctypes.create_string_buffer(-n)
    n = lib.llama_token_to_piece(vocab, token, longer, -n, 0, True)
    return longer.raw[:n]


def _rest(data: bytes) -> bytes | None:
    """The unfinished character at the end; None: this is no UTF-8."""
    try:
        _, n_whole = codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError:
        return None
    rest = data[n_whole:]
    # Python takes half a surrogate for a beginning, of which there is no rest
    return None if rest[:1] == b"\xed" and rest[1:2] >= b"\xa0" else rest


class LlamaSampler:
    """A chain in llama.cpp's usual order: bias, penalties, top-k, top-p, min-p, temperature, draw.

    The grammar stands before it. Since asking it about every token is slow, the chain first chooses without
    it; only where it forbids that choice the chain chooses again, among what it allows. That is what
    llama.cpp's `common_sampler_sample` does by default.
    """

    def __init__(
        self, spec: SamplerSpec, vocab: Vocab, prompt: Sequence[int], completion: Sequence[int], n_drawn: int
    ) -> None:
        self.n_logprobs = spec.n_logprobs
        self.n_drawn = n_drawn
        self._vocab = vocab
        self._single = vocab.single
        self.chain: Any = None
        self._dist: Any = None
        self._grammar: Any = None
        self._penalizes = False
        self._shown: NDArray[np.bool_] | None = None
        """Under a grammar: by token, whether it isn't a control token of which the grammar knows nothing."""
        self._possible: NDArray[np.bool_] | None = None
        """Under a grammar: by token, whether that and the characters so far let it come next."""
        self._rest = b""
        """The beginning of a character at the end of what has been said under a grammar."""
        try:
            if spec.grammar is not None:
                self._take_grammar(spec.grammar)
            self._build(spec.params, spec.seed)
            self._catch_up(prompt, completion)
        except BaseException:
            self.close()
            raise

    def _catch_up(self, prompt: Sequence[int], completion: Sequence[int]) -> None:
        """Bring the chain to where one stands that has drawn `n_drawn` times and seen these tokens."""
        if self._dist:
            # every choice draws once, and one under a grammar twice, needed or not
            for _ in range(2 * self.n_drawn if self._grammar else self.n_drawn):
                self._single.apply(self._dist, 0)
        if self._penalizes:
            for token in prompt[-PENALTY_LAST_N:]:
                lib.llama_sampler_accept(self.chain, token)
        for token in completion:
            self.accept(token)

    def _take_grammar(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        if data:  # of an empty text llama.cpp makes a sampler that allows all
            self._grammar = lib.llama_sampler_init_grammar(self._vocab.pointer, data, b"root")
        if not self._grammar:  # NULL in a chain would crash at its first use
            raise TokenglassError("invalid_argument", "llama.cpp can't read the grammar", path="grammar")
        # a control token isn't shown, so it mustn't stand for its text unless the grammar spells that out
        shown = self._vocab.beginnings.copy()
        for token, control_text in self._vocab.control_texts.items():
            shown[token] = control_text in data
        self._shown = self._possible = shown

    def _build(self, params: SamplingParams, seed: int) -> None:
        n_vocab = self._vocab.n_tokens
        self.chain = chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())

        def add(sampler: Any) -> None:
            lib.llama_sampler_chain_add(chain, sampler)

        bias = {token: value for token, value in params.logit_bias.items() if 0 <= token < n_vocab}
        if bias:
            biases = (lib.llama_logit_bias * len(bias))(*bias.items())
            add(lib.llama_sampler_init_logit_bias(n_vocab, len(biases), biases))
        repeat, frequency, presence = (
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        )
        self._penalizes = repeat != 1 or presence != 0 or frequency != 0
        if self._penalizes:
            add(lib.llama_sampler_init_penalties(n_vocab, PENALTY_LAST_N, repeat, frequency, presence))
        # tokens that may fall behind others; where some may rise, all count
        lowered = len(bias) + (PENALTY_LAST_N if self._penalizes else 0)
        raises = repeat < 1 or presence < 0 or frequency < 0 or any(value > 0 for value in bias.values())
        n_first = 1 if params.temperature == 0 else params.top_k
        self._reach = n_first + lowered if n_first and not raises else None
        """The choice depends on no more than so many of the likeliest tokens; None: on all."""
        self._plain_greedy = params.temperature == 0 and not raises and not self._penalizes
        self._biased = frozenset(bias)
        if params.temperature == 0:
            add(lib.llama_sampler_init_greedy())
            return
        if params.top_k > 0:
            add(lib.llama_sampler_init_top_k(params.top_k))
        if params.top_p < 1:
            add(lib.llama_sampler_init_top_p(params.top_p, 1))
        if params.min_p > 0:
            add(lib.llama_sampler_init_min_p(params.min_p, 1))
        add(lib.llama_sampler_init_temp(params.temperature))
        # llama.cpp takes its default seed for "any", and that couldn't be drawn again
        self._dist = lib.llama_sampler_init_dist(seed if seed != lib.LLAMA_DEFAULT_SEED else 0)
        add(self._dist)

    def choose(self, logits: Logits) -> int:
        """Draw a token and accept it.

        Raises TokenglassError: `invalid_output` where logits are NaN or infinite, `invalid_argument` where
        the grammar allows no token.
        """
        token = int(logits.argmax())  # that of a NaN where there is one
        if not -1e30 < logits[token] < 1e30:
            raise TokenglassError(
                "invalid_output",
                "the model computed values that are not numbers",
                hint="the model file may be damaged; load it again or download it again",
            )
        if not self._plain_greedy or token in self._biased:  # what isn't lowered stays the highest
            ids = None
            if self._reach is not None and self._reach < PRESELECT_FROM <= len(logits):
                ids = likeliest(logits, self._reach)
            token = self._run_chain(logits if ids is None else logits[ids], ids)
        if self._grammar:
            if not self.allows(token):
                token = self._choose_allowed(logits)
            elif self._dist:
                self._single.apply(self._dist, 0)
        self._take(token)
        self.n_drawn += 1
        return token

    def _run_chain(self, logits: Logits, ids: Ids | None) -> int:
        candidates = self._vocab.candidates
        candidates.fill(logits, ids)
        candidates.apply(self.chain)
        return candidates.selected

    def _choose_allowed(self, logits: Logits) -> int:
        """Choose among the tokens that the grammar allows; asks it about no more tokens than needed."""
        reach = self._reach
        for n in _WIDER:
            if reach is not None and n < len(logits):
                ids, values = self._allowed(logits, likeliest(logits, n))
                if len(ids) >= reach:
                    return self._run_chain(values, ids)
        ids, values = self._allowed(logits, None)
        if not len(ids):
            raise TokenglassError(
                "invalid_argument", "the grammar leaves this model no token to go on with", path="grammar"
            )
        return self._run_chain(values, ids)

    def _allowed(self, logits: Logits, ids: Ids | None) -> tuple[Ids, Logits]:
        """Those of the tokens `ids` (None: of all) that the grammar allows, and their logits."""
        candidates = self._vocab.candidates
        candidates.fill(logits if ids is None else logits[ids], ids)
        candidates.apply(self._grammar)
        allowed, values = candidates.left()
        assert self._possible is not None
        possible = self._possible[allowed]
        return allowed[possible], values[possible]

    def allows(self, token: int) -> bool:
        if not 0 <= token < self._vocab.n_tokens:
            return False
        if self._possible is None:
            return True
        return bool(self._possible[token]) and self._single.apply(self._grammar, token) != _NEG_INF

    def accept(self, token: int) -> None:
        """Raises TokenglassError `invalid_argument` where the grammar forbids the token.

        llama.cpp would throw a C++ exception at it, which would end the process.
        """
        if not self.allows(token):
            raise TokenglassError("invalid_argument", f"the grammar forbids token {token}", path="grammar")
        self._take(token)

    def _take(self, token: int) -> None:
        if self._grammar:
            lib.llama_sampler_accept(self._grammar, token)
            # llama.cpp would take any byte for the rest of a character, a quotation mark too
            rest = self._vocab.rest_after(self._rest, token)
            if rest != self._rest:
                self._rest = rest
                self._possible = self._vocab.continuations(rest) if rest else self._shown
        if self._penalizes:
            lib.llama_sampler_accept(self.chain, token)

    def close(self) -> None:
        for sampler in (self.chain, self._grammar):
            if sampler:
                lib.llama_sampler_free(sampler)
        self.chain = self._grammar = self._dist = None
