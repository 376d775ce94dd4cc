"""Asks the held-out questions, grades the answers, and writes eval/results.json."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from runtime import Starter

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "eval"))


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", type=Path, default=HERE / "starter.gguf")
    p.add_argument("--out", type=Path, default=HERE / "eval" / "results.json")
    a = p.parse_args()
    from grade import grade

    questions: list[dict[str, Any]] = [
        json.loads(x) for x in (HERE / "eval" / "questions.jsonl").read_text().splitlines() if x.strip()
    ]
    starter = Starter(a.model)
    right: dict[str, int] = defaultdict(int)
    count: dict[str, int] = defaultdict(int)
    answers = []
    for q in questions:
        text = starter.answer(q["messages"], q.get("tools"))
        passed, why = grade(q["rule"], text)
        count[q["category"]] += 1
        right[q["category"]] += passed
        answers.append(
            {"id": q["id"], "category": q["category"], "passed": passed, "why": why, "answer": text}
        )
    warm = []
    for i, q in enumerate(random.Random(5).sample(questions, 10)):
        text = starter.answer(q["messages"], q.get("tools"), temperature=0.7, seed=100 + i)
        warm.append({"id": q["id"], "question": q["messages"][-1]["content"], "answer": text})
    # Ten greedy answers as they are, evenly over the file, whether right or wrong.
    stride = len(questions) // 10
    samples = [
        {
            "id": q["id"],
            "question": q["messages"][-1]["content"],
            "answer": answers[i]["answer"],
            "passed": answers[i]["passed"],
        }
        for i, q in enumerate(questions)
        if i % stride == stride // 2
    ][:10]
    total = sum(right.values())
    results = {
        "model": a.model.name,
        "questions": len(questions),
        "passed": total,
        "share": round(total / len(questions), 4),
        "categories": {
            c: {"questions": count[c], "passed": right[c], "share": round(right[c] / count[c], 4)}
            for c in sorted(count)
        },
        "samples_greedy": samples,
        "samples_temperature_0.7": warm,
        "answers": answers,
    }
    a.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    for c in sorted(count):
        print(f"{c:12} {right[c]:3}/{count[c]:3}  {right[c] / count[c]:.0%}")
    print(f"{'all':12} {total:3}/{len(questions):3}  {total / len(questions):.1%}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
