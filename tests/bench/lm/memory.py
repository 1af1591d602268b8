"""`python -m bench.lm.memory ours`, or torch: peak additional memory of exact KL from 4096 hidden states, in bytes."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch

from bench.lm.engine import _eager, model
from bench.memory import _status
from esscher.lm.transformers.scoring import _over_the_vocabulary


@torch.inference_mode()
def main(who: str) -> None:
    policy = model("float32")._network
    prior = copy.copy(policy)
    hidden = [torch.randn(4096, policy.output.in_features) for _ in range(2)]
    token_ids = torch.randint(0, policy.vocabulary_size, (4096,))
    # What libraries allocate once is not the job's.
    _over_the_vocabulary([policy], [hidden[0][:1]], token_ids[:1])
    policy._logits = prior._logits = None
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    if who == "ours":
        _over_the_vocabulary([policy, prior], hidden, token_ids)
    else:
        _eager(policy, prior, hidden, token_ids)
    print(_status("VmHWM") - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
