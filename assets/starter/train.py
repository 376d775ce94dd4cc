"""Trains the starter: `python train.py --minutes 82` or `--steps N`; goes on from run/last.pt if there."""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path

import torch
from corpus import dialogue
from data import batch
from model import Config, Llama
from muon import Muon
from tokenizer import Tokenizer
from torch.nn import functional

HERE = Path(__file__).resolve().parent
RUN = HERE / "run"
LOG = HERE / "training_log.csv"
SEED = 20261121


def rate(progress: float, step: int, warmup: int) -> float:
    """Factor of the learning rate: warm-up, a plateau, then a fall to nothing along a cosine."""
    flat = 0.25
    fall = (
        1.0 if progress < flat else 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - flat) / (1 - flat))))
    )
    return min(1.0, (step + 1) / warmup) * max(fall, 0.01)


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--minutes", type=float, default=82.0, help="wall-clock budget of training")
    p.add_argument("--steps", type=int, default=0, help="fixed number of steps instead of a budget")
    p.add_argument("--tokens", type=int, default=4096, help="places in a batch")
    p.add_argument("--lr", type=float, default=0.01, help="of the layers' matrices (Muon)")
    p.add_argument("--lr-rest", type=float, default=1.2e-3, help="of the embedding and the norms (AdamW)")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--ff", type=int, default=640)
    p.add_argument("--seed", type=int, default=SEED)
    p.add_argument("--init", default="", help="checkpoint to start the second stage from")
    p.add_argument("--name", default="last")
    a = p.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    RUN.mkdir(exist_ok=True)
    tok = Tokenizer()
    cfg = Config(vocab=tok.sp.get_piece_size(), layers=a.layers, ff=a.ff)
    net = Llama(cfg).to(device)
    matrices = [q for block in net.blocks for q in block.parameters() if q.ndim == 2]
    rest = [q for q in net.parameters() if all(q is not m for m in matrices)]
    muon = Muon(matrices, lr=a.lr, weight_decay=0.01)
    adam = torch.optim.AdamW(rest, lr=a.lr_rest, betas=(0.9, 0.97), weight_decay=0.0)
    step, spent, seen = 0, 0.0, 0
    last = RUN / f"{a.name}.pt"
    if last.exists():
        state = torch.load(last, map_location=device)
        net.load_state_dict(state["net"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        step, spent, seen = state["step"], state["spent"], state["seen"]
    elif a.init:
        dialogue.tune()
        net.load_state_dict(torch.load(a.init, map_location=device)["net"])
    print(f"{sum(q.numel() for q in net.parameters())} parameters, {device}, step {step}", flush=True)
    log = LOG.open("a" if step or a.init else "w", newline="")
    writer = csv.writer(log, lineterminator="\n")
    if LOG.stat().st_size == 0:
        writer.writerow(["stage", "step", "minutes", "tokens", "loss", "lr_factor"])
    average, saved = None, time.monotonic()
    while True:
        began = time.monotonic()
        progress = step / a.steps if a.steps else spent / (60 * a.minutes)
        if progress >= 1.0:
            break
        factor = rate(progress, step, 60)
        for opt, base in ((muon, a.lr), (adam, a.lr_rest)):
            for g in opt.param_groups:
                g["lr"] = base * factor
        muon.param_groups[0]["momentum"] = min(0.95, 0.85 + 0.1 * step / 200)
        x, y, w = (t.to(device) for t in batch(tok, a.seed, step, a.tokens, progress))
        hidden = net.hidden(x)
        keep = w > 0
        logits = functional.linear(hidden[keep], net.embed.weight)
        each = functional.cross_entropy(logits, y[keep], reduction="none")
        wk = w[keep]
        loss = (each * wk).sum() / wk.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        muon.step()
        adam.step()
        muon.zero_grad(set_to_none=True)
        adam.zero_grad(set_to_none=True)
        said = wk > 0.5
        value = float(each[said].mean().detach())
        average = value if average is None else 0.97 * average + 0.03 * value
        step += 1
        seen += int(keep.sum())
        spent += time.monotonic() - began
        if step % 20 == 0:
            writer.writerow([a.name, step, f"{spent / 60:.2f}", seen, f"{average:.4f}", f"{factor:.4f}"])
            log.flush()
            speed = f"{seen} tokens ({seen / spent:.0f}/s)"
            print(f"step {step} {spent / 60:.1f} min {speed} loss {average:.4f} lr x{factor:.3f}", flush=True)
        if time.monotonic() - saved > 300:
            save(last, net, muon, adam, cfg, step, spent, seen)
            saved = time.monotonic()
    save(last, net, muon, adam, cfg, step, spent, seen)
    print("done", flush=True)


def save(
    path: Path,
    net: Llama,
    muon: Muon,
    adam: torch.optim.Optimizer,
    cfg: Config,
    step: int,
    spent: float,
    seen: int,
) -> None:
    """Writes a checkpoint in one go, so that a cut never leaves half a file."""
    part = path.with_suffix(".part")
    torch.save(
        {
            "net": net.state_dict(),
            "muon": muon.state_dict(),
            "adam": adam.state_dict(),
            "cfg": cfg.to_dict(),
            "step": step,
            "spent": spent,
            "seen": seen,
        },
        part,
    )
    part.replace(path)


if __name__ == "__main__":
    main()
