"""A backend without a model: scripted or pseudo-random answers, delays and failures (`engine.fakespec`).

What it answers depends on nothing but a sequence's tokens, where its prompt ends, and its sampler's seed,
parameters and count of draws; without a temperature on the tokens alone. So texts are the same however
generations are batched, cut, recovered or branched. Grammars are taken and not obeyed.

It also checks what the core feeds it (positions, limits, free cells, logits that are read, tokens that
samplers have seen), and an error there is an AssertionError: that makes every test with it a test of the
core.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, NoReturn

from engine.backend import Batch, LoadProgress, OffloadError, Sampled, Sampler, SamplerSpec
from engine.errors import TokenglassError
from engine.fakespec import FakeSpec
from engine.types import ModelInfo, WorkerConfig

_SPECIAL: Final = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
BOS, EOS, IM_START, IM_END = range(len(_SPECIAL))
_FIRST_BYTE: Final = len(_SPECIAL)
_WORDS: Final = """
the a of and to in is it on as that one two token step slot batch stream light glass river stone quiet
morning letter window garden small bright early never often again under over through between before
after carries follows answers counts holds begins ends turns moves keeps opens reads draws waits runs
sings blue green silver warm cold first last next every other same whole open slow quick user assistant
system naïve café über Straße žlutý 水 光 静か мост река 🌱 🪟 →
"""
_PIECES: Final = (*(f" {word}" for word in _WORDS.split()), ".", ",", "\n")
_FIRST_WORD: Final = _FIRST_BYTE + 256
N_VOCAB: Final = _FIRST_WORD + len(_PIECES)
_TOKEN_OF: Final = {piece.encode(): _FIRST_WORD + i for i, piece in enumerate(_PIECES)}
_WORD_PATTERN: Final = re.compile(
    b"|".join(re.escape(piece) for piece in sorted(_TOKEN_OF, key=len, reverse=True)) + rb"|[\x00-\xff]"
)
_SPECIAL_PATTERN: Final = re.compile("(" + "|".join(re.escape(text) for text in _SPECIAL) + ")")
_MASK: Final = (1 << 64) - 1
N_EMBD: Final = 16

CHAT_TEMPLATE: Final = """\
{%- if tools %}{{ '<|im_start|>system\\nTools: ' }}{{ tools | tojson }}{{ '<|im_end|>\\n' }}{% endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') }}
{%- for call in message['tool_calls'] or [] -%}
{{ '<tool_call>' }}{{ call['function'] | tojson }}{{ '</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""


def _mix(state: int, value: int) -> int:
    """One round of a 64-bit hash (that of splitmix64)."""
    x = (state + value + 1) * 0x9E3779B97F4A7C15 & _MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    return x ^ x >> 29


class FakeSampler:
    """What a generation's next token depends on, beside its tokens."""

    def __init__(
        self, spec: SamplerSpec, prompt: Sequence[int], completion: Sequence[int], n_drawn: int
    ) -> None:
        params = spec.params
        self.draws = params.temperature > 0
        self.seed = spec.seed if self.draws else 0
        self.params = (
            hash((params.temperature, params.top_k, params.top_p, params.min_p)) if self.draws else 0
        )
        self.n_logprobs = spec.n_logprobs
        self.n_drawn = n_drawn
        self.n_prompt = len(prompt)
        self.tokens = [*prompt, *completion]
        self.compared = 0
        """How many of these are known to be what the sequence has."""
        self.answer: list[int] | None = None
        self.closed = False

    def allows(self, token: int) -> bool:
        return 0 <= token < N_VOCAB

    def accept(self, token: int) -> None:
        assert self.allows(token)
        self.tokens.append(token)

    def close(self) -> None:
        assert not self.closed, "sampler closed twice"
        self.closed = True


class FakeBackend:
    """See the module's docstring; `load` makes one."""

    def __init__(self, spec: FakeSpec, info: ModelInfo, n_batch: int) -> None:
        self.info = info
        self.chat_template: str | None = CHAT_TEMPLATE
        self.bos_text = _SPECIAL[BOS]
        self.eos_text = _SPECIAL[IM_END]
        self._spec = spec
        self._n_batch = n_batch
        self.held: list[list[int]] = [[] for _ in range(info.n_slots)]
        """The tokens of each sequence in the imagined KV cache."""
        self._hashes: list[list[int]] = [[] for _ in range(info.n_slots)]
        self._cells: list[list[int]] = [[] for _ in range(info.n_slots)]
        self._shares: Counter[int] = Counter()
        """By cell: how many sequences it belongs to."""
        self._next_cell = 0
        self._logits: dict[int, tuple[int, int]] = {}
        """Batch entries whose logits were asked for in the last decode: sequence and its length then."""
        self._sampled = 0
        self._failed = False

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        tokens = [BOS] if add_special else []
        for i, part in enumerate(_SPECIAL_PATTERN.split(text) if parse_special else [text]):
            if i % 2:
                tokens.append(_SPECIAL.index(part))
            else:
                tokens += self._spell(part.encode("utf-8", "replace"))
        return tokens

    def _spell(self, data: bytes) -> list[int]:
        if self._spec.bytes:
            return [_FIRST_BYTE + byte for byte in data]
        pieces = _WORD_PATTERN.findall(data)
        return [_TOKEN_OF[piece] if piece in _TOKEN_OF else _FIRST_BYTE + piece[0] for piece in pieces]

    def piece(self, token: int, *, special: bool = False) -> bytes:
        assert 0 <= token < N_VOCAB
        if token < _FIRST_BYTE:
            return _SPECIAL[token].encode() if special else b""
        if token < _FIRST_WORD:
            return bytes((token - _FIRST_BYTE,))
        return _PIECES[token - _FIRST_WORD].encode()

    def is_eog(self, token: int) -> bool:
        return token in (EOS, IM_END)

    def new_sampler(
        self, spec: SamplerSpec, prompt: Sequence[int], completion: Sequence[int] = (), n_drawn: int = 0
    ) -> FakeSampler:
        if self.info.embedding:
            raise TokenglassError("bad_state", "fake model: it gives embeddings and writes no text")
        return FakeSampler(spec, prompt, completion, n_drawn)

    def decode(self, batch: Batch) -> None:
        n = len(batch.tokens)
        assert 0 < n <= self._n_batch, f"{n} tokens in a batch of at most {self._n_batch}"
        assert n == len(batch.positions) == len(batch.sequences) == len(batch.wants_logits)
        if self._spec.fail_after is not None and self._sampled >= self._spec.fail_after and not self._failed:
            self._failed = True
            raise TokenglassError("out_of_memory", "fake model: no memory for this batch")
        if not self._spec.recurrent and self.cells_used + n > self.info.n_kv:
            raise TokenglassError("context_overflow", "fake model: no free cell is left in the KV cache")
        self._logits.clear()
        for i, (token, position, sequence) in enumerate(
            zip(batch.tokens, batch.positions, batch.sequences, strict=True)
        ):
            tokens, hashes = self.held[sequence], self._hashes[sequence]
            assert 0 <= token < N_VOCAB
            assert position == len(tokens), f"position {position} in a sequence of {len(tokens)} tokens"
            assert position < self.info.n_ctx, f"sequence {sequence} is full"
            tokens.append(token)
            hashes.append(_mix(hashes[-1] if hashes else 0, token))
            self._cells[sequence].append(self._next_cell)
            self._shares[self._next_cell] = 1
            self._next_cell += 1
            if batch.wants_logits[i]:
                self._logits[i] = sequence, len(tokens)
        prompt_tokens = n - len(self._logits)
        pause = self._spec.delay_ms + self._spec.prefill_ms * prompt_tokens
        if pause:
            time.sleep(pause / 1000)

    @property
    def cells_used(self) -> int:
        """Cells of the imagined KV cache that hold a token; those that sequences share count once."""
        return len(self._shares)

    def sample(self, sampler: Sampler, index: int) -> Sampled:
        assert isinstance(sampler, FakeSampler)
        assert not sampler.closed, "a closed sampler is used"
        assert index in self._logits, f"logits of entry {index} weren't asked for, or are read twice"
        sequence, length = self._logits.pop(index)
        held = self.held[sequence]
        assert len(held) >= length
        start = sampler.compared
        assert sampler.tokens[start:] == held[start:length], "the sampler has seen other tokens"
        sampler.compared = length
        spec = self._spec
        if spec.nan_after is not None and length - sampler.n_prompt >= spec.nan_after:
            raise TokenglassError("invalid_output", "fake model: the logits are not a number")
        self._misbehave()
        token = self._choose(sampler, sequence, length)
        sampler.accept(token)
        sampler.n_drawn += 1
        self._sampled += 1
        if sampler.n_logprobs is None:
            return Sampled(token)
        first = -0.05 - (self._hashes[sequence][length - 1] >> 8) % 1000 / 1000
        # the second has half of what the first leaves, the third half of the second's, and so on
        others = math.log1p(-math.exp(first))
        top = tuple(
            ((token + i * 7) % N_VOCAB, others - i * math.log(2) if i else first)
            for i in range(sampler.n_logprobs)
        )
        return Sampled(token, first, top)

    def _misbehave(self) -> None:
        spec, n = self._spec, self._sampled
        if spec.abort_after is not None and n >= spec.abort_after:
            os.abort()
        if spec.exit_after is not None and n >= spec.exit_after:
            os._exit(3)
        if spec.gpu_abort is not None and n >= spec.gpu_abort:
            _check_gpu(spec, self.info.n_gpu_layers)
        if spec.hang_after is not None and n >= spec.hang_after:
            _hang()

    def _choose(self, sampler: FakeSampler, sequence: int, length: int) -> int:
        hashes, position = self._hashes[sequence], length - sampler.n_prompt
        at_prompt = hashes[max(0, sampler.n_prompt - 1)]
        fixed = self._fixed_answer(sampler, sequence, at_prompt)
        if fixed is not None:
            return fixed[position] if position < len(fixed) else IM_END
        if position >= self._answer_length(at_prompt):
            return IM_END
        state = _mix(hashes[length - 1], sampler.seed)
        if sampler.draws:
            state = _mix(_mix(state, sampler.n_drawn), sampler.params)
        return _FIRST_WORD + state % len(_PIECES)

    def _answer_length(self, at_prompt: int) -> int:
        return 40 + at_prompt % 41 if self._spec.tokens is None else self._spec.tokens

    def _fixed_answer(self, sampler: FakeSampler, sequence: int, at_prompt: int) -> list[int] | None:
        """The answer from the prompt's end on, where nothing is drawn."""
        spec = self._spec
        if sampler.answer is None:
            if spec.script is not None:
                answer = self._spell(spec.script)
            elif spec.echo:
                answer = self._last_user_message(self.held[sequence][: sampler.n_prompt])
            elif spec.bytes:
                length, words, state = self._answer_length(at_prompt), [], _mix(at_prompt, sampler.seed)
                for _ in range(length):
                    state = _mix(state, 1)
                    words.append(_PIECES[state % len(_PIECES)].encode())
                answer = self._spell(b"".join(words))[:length]
            else:
                return None
            sampler.answer = answer if spec.tokens is None else answer[: spec.tokens]
        return sampler.answer

    def _last_user_message(self, tokens: list[int]) -> list[int]:
        user = [IM_START, *self._spell(b"user\n")]
        end = len(tokens)
        for start in range(len(tokens) - len(user), -1, -1):
            if tokens[start] == IM_END:
                end = start
            elif tokens[start : start + len(user)] == user:
                return tokens[start + len(user) : end]
        return [token for token in tokens if token >= _FIRST_BYTE]

    def keep(self, sequence: int, n_tokens: int) -> int:
        tokens, hashes = self.held[sequence], self._hashes[sequence]
        assert 0 <= n_tokens <= len(tokens), f"keep {n_tokens} of {len(tokens)} tokens"
        if self._spec.recurrent and n_tokens < len(tokens):
            n_tokens = 0
        cells = self._cells[sequence]
        for cell in cells[n_tokens:]:
            self._shares[cell] -= 1
            if not self._shares[cell]:
                del self._shares[cell]
        del tokens[n_tokens:], hashes[n_tokens:], cells[n_tokens:]
        return n_tokens

    def copy(self, source: int, target: int, n_tokens: int) -> int:
        assert source != target
        assert not self.held[target], "copies go to empty sequences"
        assert 0 <= n_tokens <= len(self.held[source]), f"copy {n_tokens} of {len(self.held[source])} tokens"
        if self._spec.recurrent and n_tokens < len(self.held[source]):
            return 0
        self.held[target] = self.held[source][:n_tokens]
        self._hashes[target] = self._hashes[source][:n_tokens]
        if self.info.kv_unified:
            self._cells[target] = self._cells[source][:n_tokens]
        else:
            self._cells[target] = list(range(self._next_cell, self._next_cell + n_tokens))
            self._next_cell += n_tokens
        self._shares.update(self._cells[target])
        return n_tokens

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        vectors = []
        for tokens in inputs:
            if not tokens:
                raise TokenglassError("invalid_argument", "an input has no tokens", path="input")
            if len(tokens) > self.info.n_ctx:
                message = f"an input has {len(tokens)} tokens, the model takes {self.info.n_ctx}"
                raise TokenglassError("context_overflow", message, hint="split it into shorter parts")
            state = 0
            for token in tokens:
                assert 0 <= token < N_VOCAB
                state = _mix(state, token)
            values = [(_mix(state, i) >> 11) / 2**52 - 1 for i in range(N_EMBD)]
            length = math.hypot(*values)
            vectors.append([value / length for value in values])
        return vectors

    def close(self) -> None:
        self.held.clear()
        self._hashes.clear()
        self._cells.clear()


def _hang() -> NoReturn:
    while True:
        time.sleep(3600)


def _offload(spec: FakeSpec, config: WorkerConfig) -> int:
    """Layers on the imagined GPU, which holds `gpu_layers`; more fail here, or with `gpu_abort` later."""
    if spec.gpu_layers is None:
        return 0
    chosen, plan = config.n_gpu_layers, config.plan
    if chosen < 0:
        chosen = plan.n_gpu_layers if plan.n_gpu_layers >= 0 else 2 * spec.gpu_layers + 1
        chosen = chosen if plan.at_most is None else min(chosen, plan.at_most)
    if chosen <= spec.gpu_layers or spec.gpu_abort is not None:
        return chosen
    error = TokenglassError("out_of_memory", f"fake model: {chosen} layers don't fit on the GPU")
    raise OffloadError(error, chosen) if config.n_gpu_layers < 0 else error


def _check_gpu(spec: FakeSpec, n_gpu_layers: int) -> None:
    """End as ggml does where a GPU's memory is short."""
    if spec.gpu_layers is not None and n_gpu_layers > spec.gpu_layers:
        print("CUDA error: out of memory", file=sys.stderr, flush=True)
        os.abort()


def load(config: WorkerConfig, progress: LoadProgress) -> FakeBackend:
    """Load what `config.model_path` (`fake:…`) describes.

    Raises TokenglassError: `load_failed` for a wrong spec, `load_cancelled` where `progress` says so, and
    whatever the spec asks for.
    """
    spec = FakeSpec.parse(config.model_path)
    start = time.monotonic()
    if spec.load_abort:
        os.abort()
    n_pieces = max(1, round(spec.load_ms / 20))
    for i in range(n_pieces):
        if not progress(i / n_pieces):
            raise TokenglassError("load_cancelled", "the load was stopped")
        time.sleep(spec.load_ms / n_pieces / 1000)
    if spec.load_fail is not None:
        raise TokenglassError(spec.load_fail, f"fake model: the load fails with {spec.load_fail}, as asked")
    if spec.oom_at_load:
        raise TokenglassError(
            "out_of_memory", "fake model: not enough memory", hint="load a smaller model, or fewer slots"
        )
    n_gpu_layers = _offload(spec, config)
    if spec.gpu_abort == 0:
        _check_gpu(spec, n_gpu_layers)
    progress(1.0)
    n_ctx = spec.ctx or config.n_ctx or 4096
    n_slots = spec.slots or config.n_slots
    n_kv = config.n_kv or n_ctx * n_slots
    info = ModelInfo(
        id=config.model_id,
        name="Fake model",
        architecture="fake",
        size_bytes=0,
        n_params=0,
        n_vocab=N_VOCAB,
        n_ctx_train=n_ctx,
        n_ctx=min(n_ctx, n_kv),
        n_slots=n_slots,
        n_threads=1,
        n_gpu_layers=n_gpu_layers,
        devices=["none"],
        has_chat_template=True,
        n_kv=n_kv,
        kv_unified=0 < config.n_kv < n_ctx * n_slots,
        n_batch=config.n_batch,
        n_ubatch=config.n_ubatch or config.n_batch,
        n_threads_batch=1,
        recurrent=spec.recurrent,
        embedding=spec.embedding,
        n_embd=N_EMBD,
        load_ms=(time.monotonic() - start) * 1000,
    )
    return FakeBackend(spec, info, config.n_batch)
