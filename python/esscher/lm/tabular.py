"""A language model small enough to enumerate: every expectation under it can be computed exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from esscher.lm.base import check_sampling, check_scoring
from esscher.lm.pair import check_same_vocabulary
from esscher.ragged import MAX_TOKEN_ID, Ragged
from esscher.samples import Samples, as_samples
from esscher.token_scores import TokenScores

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.ragged import Masked


END = 0


class TabularLM:
    """A table of logits for every prefix of every prompt; token 0 ends a sequence.

    The first token of a prompt is the number of its table. The tokens after it, if any, are a prefix that the sequence
    begins with, none of them an end token: so what has been written can be a prompt, and be continued. Prefix and
    completion have at most `depth` tokens together (`max_tokens` counts the table's too): a sequence that gets there
    without an end token is cut off. The next token depends on the whole prefix, so nothing is Markov by accident.
    Prefixes (nodes) are numbered breadth first: the empty one is 0, and node i followed by token t > 0 is
    ``i * (vocabulary - 1) + t``.

    Parameters
    ----------
    logits
        Unnormalised log-probabilities of the next token, shape [prompts, nodes, vocabulary], where nodes is the sum
        of ``(vocabulary - 1)**k`` over k = 0 .. depth - 1; -inf forbids a token.
    name
        What the model is called in messages.

    Raises
    ------
    ValueError
        If `logits` has another shape, a NaN or +inf, or a node with no possible token.

    Examples
    --------
    >>> model = TabularLM(np.log([[[0.5, 0.5], [0.25, 0.75]]]))
    >>> everything = model.completions()
    >>> [row.tolist() for row in everything.completions]
    [[0], [1, 0], [1, 1]]
    >>> np.exp(everything.policy_logprobs.values)
    array([0.5 , 0.5 , 0.25, 0.5 , 0.75])

    After a prefix, here of the token 1:

    >>> np.exp(model.logprobs(Ragged.from_rows([[0, 1]]), Ragged.from_rows([[0], [1]]), [0, 2]).values)
    array([0.25, 0.75])
    """

    end_token_ids: tuple[int, ...] = (END,)
    start_token_id: int | None = None

    def __init__(self, logits: ArrayLike, name: str = "tabular") -> None:
        logits = np.asarray(logits, dtype=np.float64)
        if logits.ndim != 3 or logits.shape[0] < 1 or logits.shape[2] < 2:
            raise ValueError(
                f"logits has shape {logits.shape}: it is [prompts, nodes, vocabulary], with a vocabulary of at least 2"
            )
        _check_logits(logits)
        self.name = name
        self.vocabulary_size = logits.shape[2]
        self.depth = _depth_of(logits.shape[1], self.vocabulary_size - 1)
        self.max_tokens = 1 + self.depth
        self._logits = logits

    @classmethod
    def random(cls, rng: np.random.Generator, prompts: int, vocabulary: int, depth: int) -> TabularLM:
        """Draw a model without symmetries: normal logits around a slope, so that no two tokens are exchangeable.

        Examples
        --------
        >>> model = TabularLM.random(np.random.default_rng(0), prompts=2, vocabulary=4, depth=3)
        >>> len(model.completions())
        80
        """
        nodes = sum((vocabulary - 1) ** k for k in range(depth))
        return cls(rng.normal(np.linspace(0.3, -0.6, vocabulary), 1.0, size=(prompts, nodes, vocabulary)))

    def logprobs(self, prompts: Ragged, completions: Ragged | Masked, groups: ArrayLike) -> Ragged:
        """Log-prob of every completion token, float64 nats; see `LanguageModel.logprobs`.

        Raises
        ------
        ValueError
            As `LanguageModel.logprobs`, and if a prompt does not begin with a table's number, or has an end token or
            `depth` tokens after it, or if a completion goes on after an end token.
        """
        samples = as_samples(prompts, completions, groups)
        rows, actions = self._distributions(samples), samples.actions.kept
        return Ragged(rows[np.arange(len(rows)), actions.values.astype(np.int64)], actions.offsets)

    def token_scores(
        self, prompts: Ragged, completions: Ragged | Masked, groups: ArrayLike, prior: TabularLM | None = None
    ) -> TokenScores:
        """Log-prob, entropy and KL at every completion token, float64 nats; see `LanguageModel.token_scores`.

        Raises
        ------
        ValueError
            As `logprobs`, for either model, and if their vocabularies differ.
        """
        samples = as_samples(prompts, completions, groups)
        policy = self._distributions(samples)
        tokens, every = samples.actions.kept.values.astype(np.int64), np.arange(len(policy))
        probs = np.exp(policy)
        entropy = -_sum_where(probs, policy)
        if prior is None:
            return TokenScores(policy[every, tokens], entropy, None, None)
        check_same_vocabulary(self, prior)
        other = prior._distributions(samples)
        kl = np.maximum(_sum_where(probs, policy) - _sum_where(probs, other), 0.0)
        return TokenScores(policy[every, tokens], entropy, other[every, tokens], kl)

    def sample(
        self, prompts: Ragged, n: int, max_new_tokens: int, rng: np.random.Generator, sampling_temperature: float = 1.0
    ) -> Samples:
        """Draw `n` completions of every prompt; see `LanguageModel.sample`.

        Raises
        ------
        ValueError
            As `LanguageModel.sample`, and if a prompt does not begin with a table's number, or has an end token or
            `depth` tokens after it.
        """
        self._check_prompts(prompts)
        check_sampling(self, prompts, n, max_new_tokens, sampling_temperature, prompt_ids=MAX_TOKEN_ID + 1)
        tables, node = (np.repeat(column, n) for column in self._starts(prompts))
        table = _log_softmax(self._logits / sampling_temperature)
        uniforms = rng.random((len(tables), max_new_tokens))
        tokens = np.zeros(uniforms.shape, np.int64)
        values, alive, lengths = np.zeros(uniforms.shape), np.ones(len(tables), np.bool_), np.zeros(len(tables), int)
        for t, uniform in enumerate(uniforms.T):
            cdf = np.exp(table[tables, node]).cumsum(axis=1)
            # Scaled by the total, which rounding may leave below 1: the last tokens must not be lost.
            token = (cdf <= (uniform * cdf[:, -1])[:, None]).sum(axis=1)
            tokens[:, t], values[:, t] = token, table[tables, node, token]
            lengths += alive
            alive &= token != END
            node = np.minimum(self._child(node, token), table.shape[1] - 1)
        return Samples(
            prompts=prompts,
            completions=Ragged.from_padded(tokens, lengths=lengths),
            groups=np.arange(len(prompts) + 1) * n,
            policy_logprobs=Ragged.from_padded(values, lengths=lengths),
            terminated=~alive,
        )

    def completions(self) -> Samples:
        """Return every completion of every prompt, shortest first, with its exact log-probs as `policy_logprobs`.

        The probabilities of a prompt's completions sum to 1. Impossible ones are there too, with a log-prob of -inf.
        """
        rows = self._every_completion()
        prompts = Ragged.from_rows([[p] for p in range(len(self._logits))])
        completions = Ragged.from_rows(rows * len(prompts))
        groups = np.arange(len(prompts) + 1) * len(rows)
        return Samples(
            prompts=prompts,
            completions=completions,
            groups=groups,
            policy_logprobs=self.logprobs(prompts, completions, groups),
            terminated=np.array([row[-1] == END for row in rows] * len(prompts)),
        )

    def places(self, samples: Samples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the table and the node of `logits` whose softmax each of the completions' actions is drawn from.

        Raises
        ------
        ValueError
            As `logprobs`.

        Examples
        --------
        >>> import numpy as np
        >>> from esscher import Ragged, Samples
        >>> model = TabularLM(np.zeros((1, 3, 3)))
        >>> model.places(Samples(Ragged.from_rows([[0]]), Ragged.from_rows([[2, 0]]), [0, 1]))
        (array([0, 0]), array([0, 2]))
        """
        self._check_prompts(samples.prompts)
        samples = check_scoring(self, samples.prompts, samples.actions, samples.groups, MAX_TOKEN_ID + 1)
        _check_nothing_after_the_end(samples.completions)
        tables, node = (column[samples.groups.of] for column in self._starts(samples.prompts))
        tokens = samples.completions.to_padded(fill=END).astype(np.int64)
        nodes = np.zeros(tokens.shape, np.int64)
        for t, token in enumerate(tokens.T):
            nodes[:, t] = node
            # Rows that have ended stay at a node that exists; what they read there is not kept.
            node = np.minimum(self._child(node, token), self._logits.shape[1] - 1)
        lengths = samples.completions.lengths
        tables, nodes = np.repeat(tables, lengths), nodes[np.arange(tokens.shape[1]) < lengths[:, None]]
        chosen = slice(None) if samples.action_mask is None else samples.action_mask.values
        return tables[chosen], nodes[chosen]

    def _distributions(self, samples: Samples) -> NDArray[np.float64]:
        """Log-probs of every token at each of the completions' actions [T, V]."""
        distributions: NDArray[np.float64] = _log_softmax(self._logits)[self.places(samples)]
        return distributions

    def _check_prompts(self, prompts: Ragged) -> None:
        """Refuse ids that are no table's in the first place, or no token's that others may follow after it."""
        if not isinstance(prompts, Ragged):
            return  # which the checks that every model makes refuse
        first = np.zeros(len(prompts.values), np.bool_)
        first[prompts.offsets[:-1][prompts.lengths > 0]] = True
        ids, known = prompts.values, np.where(first, len(self._logits), self.vocabulary_size)
        wrong = np.flatnonzero((ids < 0) | (ids >= known) | (~first & (ids == END)))
        if len(wrong):
            row, place = prompts.locate(wrong[0])
            rule = (
                f"it names the table, 0 to {len(self._logits) - 1}"
                if place == 0
                else f"after the first, which names the table, come only tokens 1 to {self.vocabulary_size - 1}"
            )
            raise ValueError(f"prompts[{row}][{place}] is {ids[wrong[0]]}: {rule}")
        full = np.flatnonzero(prompts.lengths > self.depth)
        if len(full):
            raise ValueError(
                f"prompts[{full[0]}] has {prompts.lengths[full[0]] - 1} tokens after the first, which names the table: "
                f"{self.name} cuts sequences off at {self.depth}, so nothing follows"
            )

    def _starts(self, prompts: Ragged) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which table each prompt names, and the node of the prefix after it [P]."""
        padded = prompts.to_padded(fill=END).astype(np.int64)
        node = np.zeros(len(prompts), np.int64)
        for place in range(1, padded.shape[1]):
            node = np.where(place < prompts.lengths, self._child(node, padded[:, place]), node)
        return padded[:, 0], node

    def _every_completion(self) -> list[list[int]]:
        prefixes: list[list[int]] = [[]]
        ended = []
        for _ in range(self.depth):
            ended += [[*prefix, END] for prefix in prefixes]
            prefixes = [[*prefix, token] for prefix in prefixes for token in range(1, self.vocabulary_size)]
        return ended + prefixes

    def _child(self, node: NDArray[np.int64], token: NDArray[np.int64]) -> NDArray[np.int64]:
        child: NDArray[np.int64] = node * (self.vocabulary_size - 1) + token
        return child


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    # A token that is certain may come out a rounding above 0, which no log-prob is.
    return np.minimum(normalised, 0.0)


def _sum_where(probs: NDArray[np.float64], logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of probability times log over the vocabulary [T]; what is impossible adds nothing, whatever its log."""
    terms = np.where(probs > 0, logs, 0.0)
    total: NDArray[np.float64] = (probs * terms).sum(axis=1)
    return total


def _check_logits(logits: NDArray[np.float64]) -> None:
    wrong = np.argwhere(np.isnan(logits) | (logits == np.inf))
    if len(wrong):
        where = _index(wrong[0])
        raise ValueError(f"logits{where} is {logits[tuple(wrong[0])]}: a logit is finite or -inf")
    barred = np.argwhere((logits == -np.inf).all(axis=-1))
    if len(barred):
        raise ValueError(f"logits{_index(barred[0])} is -inf throughout: at least one token must be possible")


def _index(where: NDArray[Any]) -> str:
    return "".join(f"[{i}]" for i in where)


def _depth_of(nodes: int, branches: int) -> int:
    depth, total = 0, 0
    while total < nodes:
        total += branches**depth
        depth += 1
    if total != nodes or depth == 0:
        raise ValueError(f"logits has {nodes} nodes: with {branches + 1} tokens that is no whole tree of prefixes")
    return depth


def _check_nothing_after_the_end(completions: Ragged) -> None:
    last = np.zeros(len(completions.values), np.bool_)
    last[completions.offsets[1:] - 1] = True
    early = np.flatnonzero((completions.values == END) & ~last)
    if len(early):
        row, _ = completions.locate(early[0])
        raise ValueError(f"completions[{row}] goes on after its end token {END}: this model has no such sequence")
