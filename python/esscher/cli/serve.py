"""`esscher serve`: models over gRPC."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated

import typer

from esscher.cli.allocator import keep_freed_memory
from esscher.cli.options import MODEL_HELP, Device, Precision, Reward, RewardLabel
from esscher.server.settings import ServerSettings


def serve(
    prior: Annotated[str, typer.Option(help=f"The model before fine-tuning. {MODEL_HELP}")],
    policy: Annotated[str | None, typer.Option(help="The model that is trained or judged.")] = None,
    policy_dir: Annotated[
        Path | None,
        typer.Option(help="Where a trainer saves checkpoints: each new one becomes the policy once it is whole."),
    ] = None,
    reward: Reward = None,
    reward_label: RewardLabel = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = ServerSettings.host,
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65535)
    ] = ServerSettings.port,
    metrics_port: Annotated[
        int | None, typer.Option(help="Also serve metrics for Prometheus at this port.", min=0, max=65535)
    ] = None,
    max_batch_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens per call of the models, prompts counted once.  [default: 4096, on a GPU 65536]", min=1
        ),
    ] = None,
    max_waiting_tokens: Annotated[
        int, typer.Option(help="Tokens that may wait; beyond them calls are refused.", min=1)
    ] = ServerSettings.max_waiting_tokens,
    max_message_mib: Annotated[
        int, typer.Option(help="The largest request.", min=1, max=2047)
    ] = ServerSettings.max_message_bytes // 2**20,
    device: Device = None,
    dtype: Precision = "float32",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow addresses that other machines reach, unencrypted.")
    ] = False,
) -> None:
    """Serve models over gRPC, until SIGTERM or Ctrl-C; calls in flight are finished.

    With a prior, callers get its log-probs of their completions; with a policy too, its log-probs, its entropy and the
    exact KL between the two, token by token; with a reward, rewards.
    """
    from esscher.server.following import follow_checkpoints
    from esscher.server.loading_models import Sources, load_models
    from esscher.server.serving import check_host
    from esscher.server.serving import serve as serve_models

    check_host(host, insecure=insecure)
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sources = Sources(prior, policy, policy_dir, reward, reward_label, device, dtype)
    models, checkpoint, load_policy, batch_tokens = load_models(sources, notify=logging.info)
    new_policies = None if policy_dir is None else follow_checkpoints(policy_dir, load_policy, loaded=checkpoint)
    ready = f"serving {', '.join(models.names)} at"
    serving = serve_models(
        models,
        ServerSettings(
            host,
            port,
            metrics_port,
            insecure,
            max_message_bytes=max_message_mib * 2**20,
            max_batch_tokens=max_batch_tokens or batch_tokens,
            max_waiting_tokens=max_waiting_tokens,
        ),
        new_policies=new_policies,
        on_ready=lambda address: print(ready, address, flush=True),
    )
    # The server lets go of a policy that is replaced.
    del models
    asyncio.run(serving)
    _leave_stuck_threads()


def _leave_stuck_threads() -> None:
    """End the process, although a reward may never return: Python would wait for its thread for ever."""
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    for thread in others:
        thread.join(timeout=1.0)
    if any(thread.is_alive() for thread in others):
        logging.warning("some work has not ended, and is left")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
